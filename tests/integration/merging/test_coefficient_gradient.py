"""The gradient by the coefficients is that of the loss of the merge, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import VOCAB, random_llama, recipe_over, save, with_noise
from torch import Tensor, nn
from torch.func import functional_call

from merging.coefficient_gradient import CoefficientGradient, is_differentiable
from merging.errors import MergeError
from merging.kept_directions import KeptDirections
from merging.live import LiveMerge
from merging.materialize import Sources, materialize
from merging.methods import METHODS
from merging.recipe import Recipe

# enough of every group that none is without a slope
STRUCTURES: dict[str, dict[str, Any]] = {"linear": {"normalize": False}, "localize_and_stitch": {"density": 0.2}}
LINEAR = [name for name in METHODS if is_differentiable(name, STRUCTURES.get(name, {})) is None]


def made(folder: Path, method: str, **changes: Any) -> Recipe:
    """Merged in float32, so that a small step of a coefficient is not lost to rounding."""
    recipe = recipe_over(folder, method, structure=STRUCTURES.get(method, {}), dtype="float32", **changes)
    return Sources(recipe).fingerprinted(recipe)


def loss_of(model: Any, seed: int = 3) -> Tensor:
    """Cross-entropy of random tokens, in the dtype of the model: transformers' own loss is in float32."""
    tokens = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(seed))
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def with_step(recipe: Recipe, group: str, expert: int, step: float) -> Recipe:
    row = list(recipe.coefficients[group])
    row[expert] += step
    return recipe.model_copy(update={"coefficients": {**recipe.coefficients, group: tuple(row)}})


def by_differences(live: LiveMerge, recipe: Recipe, step: float = 0.02) -> dict[str, list[float]]:
    """Central differences of the loss, in float64 but for the weights' own rounding."""

    def loss(group: str, expert: int, by: float) -> float:
        live.fill(with_step(recipe, group, expert, by))
        with torch.no_grad():
            return float(loss_of(live.model))

    return {
        group: [(loss(group, one, step) - loss(group, one, -step)) / (2 * step) for one in range(len(row))]
        for group, row in recipe.coefficients.items()
    }


def gradient(live: LiveMerge, recipe: Recipe, loss: Callable[[Any], Tensor] = loss_of) -> dict[str, tuple[float, ...]]:
    with CoefficientGradient(live, recipe) as slopes:
        loss(live.model).backward()  # type: ignore[no-untyped-call]
    return slopes.rows()


def check_close(found: dict[str, tuple[float, ...]], expected: dict[str, Any], tolerance: float) -> None:
    """Every number within a share of the largest of them, and none of the rows empty."""
    assert list(found) == list(expected)
    largest = max(abs(value) for row in expected.values() for value in row)
    for group, row in expected.items():
        assert found[group] == pytest.approx(list(row), abs=tolerance * largest, rel=0), group
    assert all(any(row) for row in found.values())


@pytest.fixture(params=["untied", "tied"])
def folder(request: pytest.FixtureRequest, zoo: Path, tmp_path: Path) -> tuple[Path, bool]:
    """The zoo, and the same with a head that is its embeddings."""
    if request.param == "untied":
        return zoo, False
    base = random_llama(seed=0, tied=True)
    for seed, name in enumerate(("base", "reverse", "sort", "add")):
        save(with_noise(base, seed) if seed else base, tmp_path / name)
    return tmp_path, True


@pytest.mark.parametrize("method", LINEAR)
def test_every_coefficient_has_the_slope_that_small_steps_measure(folder: tuple[Path, bool], method: str) -> None:
    root, tied = folder
    recipe = made(root, method)
    sources = Sources(recipe)
    live = LiveMerge(random_llama(seed=5, tied=tied).double().eval(), sources)
    check_close(gradient(live, recipe), by_differences(live, recipe), 5e-4)


def test_the_methods_that_are_linear_all_have_a_gradient() -> None:
    assert set(LINEAR) == {name for name, method in METHODS.items() if method.linear} | {"linear"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_is_autograds_through_a_merge_written_out(folder: tuple[Path, bool], dtype: str) -> None:
    root, tied = folder
    recipe = made(root, "task_arithmetic")
    sources = Sources(recipe)
    model = random_llama(seed=5, tied=tied).to(getattr(torch, dtype)).eval()
    found = gradient(LiveMerge(model, sources), recipe)

    rows = {group: torch.tensor(row, requires_grad=True) for group, row in recipe.coefficients.items()}
    groups = {name: group for group in rows for name in sources.reference.names if _group(name) == group}
    merged = {}
    for name, group in groups.items():
        assert sources.base is not None
        base = sources.base.tensor(name).float()
        steps = [one.tensor(name).float() - base for one in sources.experts.values()]
        merged[name] = (base + sum(c * step for c, step in zip(rows[group], steps, strict=True))).to(model.dtype)
    if tied:
        merged["lm_head.weight"] = merged["model.embed_tokens.weight"]
    functional_call(_Loss(model), {f"model.{name}": value for name, value in merged.items()}, ()).backward()
    expected = {group: tuple(row.grad.tolist()) for group, row in rows.items() if row.grad is not None}
    check_close(found, expected, 1e-5 if dtype == "float32" else 2e-2)


class _Loss(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> Tensor:
        return loss_of(self.model)


def _group(name: str) -> str:
    from merging.groups import group_of

    return group_of(name).name


def test_several_backward_passes_add_up(zoo: Path) -> None:
    recipe = made(zoo, "task_arithmetic")
    live = LiveMerge(random_llama(seed=5).float().eval(), Sources(recipe))
    both = gradient(live, recipe, lambda model: loss_of(model, 1) + 2 * loss_of(model, 2))
    with CoefficientGradient(live, recipe) as slopes:
        loss_of(live.model, 1).backward()  # type: ignore[no-untyped-call]
        (2 * loss_of(live.model, 2)).backward()  # type: ignore[no-untyped-call]
    check_close(slopes.rows(), both, 1e-5)


def test_kept_directions_give_the_same_gradient(zoo: Path, tmp_path: Path) -> None:
    recipe = made(zoo, "dare_linear")
    sources = Sources(recipe)
    kept = KeptDirections(sources, tmp_path)
    live = LiveMerge(random_llama(seed=5).float().eval(), sources, kept)
    check_close(gradient(live, recipe), gradient(LiveMerge(live.model, sources), recipe), 1e-6)
    assert list(tmp_path.glob("*/index.json"))


def test_tensors_that_are_not_merged_add_nothing(zoo: Path) -> None:
    whole = made(zoo, "task_arithmetic")
    rows = {group: row for group, row in whole.coefficients.items() if not group.endswith(("head", "mlp"))}
    recipe = whole.model_copy(update={"coefficients": rows, "unmerged": ("head", "mlp")})
    live = LiveMerge(random_llama(seed=5).double().eval(), Sources(recipe))
    seen: list[str] = []
    with CoefficientGradient(live, recipe) as slopes:
        seen += [name for name, parameter in live.model.named_parameters() if parameter.requires_grad]
        loss_of(live.model).backward()  # type: ignore[no-untyped-call]
    assert seen
    assert not any("mlp" in name or "lm_head" in name for name in seen)
    check_close(slopes.rows(), by_differences(live, recipe), 5e-4)


def test_one_gradient_of_a_parameter_is_held_at_a_time(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = made(zoo, "task_arithmetic")
    live = LiveMerge(random_llama(seed=5).float(), Sources(recipe))
    alive: list[int] = []
    take = CoefficientGradient._take

    def counted(self: CoefficientGradient, name: str, parameter: Tensor) -> None:
        alive.append(sum(one.grad is not None for one in live.model.parameters()))
        take(self, name, parameter)
        alive.append(sum(one.grad is not None for one in live.model.parameters()))

    monkeypatch.setattr(CoefficientGradient, "_take", counted)
    gradient(live, recipe)
    assert alive == [1, 0] * len(list(live.model.parameters()))


@pytest.fixture
def frozen_in_part() -> Any:
    """A model whose parameters differ in whether they require gradients, and whose modules differ in mode."""
    model = random_llama(seed=5).float().eval()
    model.lm_head.requires_grad_(False)
    model.model.layers[0].train()
    return model


def state(model: Any) -> list[Any]:
    about = [
        (one.requires_grad, one.grad is None, dict(one._post_accumulate_grad_hooks or {})) for one in model.parameters()
    ]
    return [*about, [module.training for module in model.modules()]]


def test_nothing_of_a_gradient_is_left_on_the_model(zoo: Path, frozen_in_part: Any) -> None:
    recipe = made(zoo, "task_arithmetic")
    live = LiveMerge(frozen_in_part, Sources(recipe))
    live.fill(recipe)
    before, weights = state(live.model), [one.clone() for one in live.model.parameters()]
    gradient(live, recipe)
    assert state(live.model) == before
    assert all(map(torch.equal, weights, live.model.parameters()))
    assert all(
        torch.equal(dict(live.model.named_parameters())[name], tensor)
        for name, tensor in materialize(recipe, live.sources)
    )


@pytest.mark.parametrize("when", ["before the backward pass", "in the middle of it"])
def test_nothing_is_left_after_an_error_either(
    zoo: Path, frozen_in_part: Any, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made(zoo, "task_arithmetic")
    live = LiveMerge(frozen_in_part, Sources(recipe))
    before = state(live.model)
    if when == "in the middle of it":

        def broken(_self: CoefficientGradient, name: str, _gradient: Tensor) -> list[float]:
            if "layers.0" in name:
                raise KeyError(name)
            return [0.0]

        monkeypatch.setattr(CoefficientGradient, "_products", broken)
        with pytest.raises(KeyError, match=r"layers\.0"):
            gradient(live, recipe)
    else:
        with pytest.raises(ZeroDivisionError):
            gradient(live, recipe, lambda _: torch.tensor(1 / 0))
    assert state(live.model) == before


def test_a_buffer_that_differs_between_models_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from merging.recipe import Source

    for number, name in enumerate(("base", "a")):
        (tmp_path / name).mkdir()
        tensors = {"weight": torch.rand(3), "running_mean": torch.full((3,), float(number))}
        save_file(tensors, tmp_path / name / "model.safetensors")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))
            self.register_buffer("running_mean", torch.zeros(3))

    recipe = Recipe(
        method="task_arithmetic",
        base=Source(path=str(tmp_path / "base")),
        experts={"a": Source(path=str(tmp_path / "a"))},
        coefficients={"other": (0.5,)},
    )
    groups = {group.name: (0.5,) for group in Sources(recipe).groups}
    recipe = recipe.model_copy(update={"coefficients": groups})
    live = LiveMerge(Net(), Sources(recipe))
    before = state(live.model)
    with pytest.raises(MergeError, match="`running_mean` is a buffer"), CoefficientGradient(live, recipe):
        pass
    assert state(live.model) == before


@pytest.mark.parametrize(
    ("method", "structure", "said"),
    [("ties", {}, "`ties` is not linear"), ("linear", {}, "divides by the sum"), ("slerp", {}, "is not linear")],
)
def test_a_method_that_is_not_linear_is_refused_with_those_that_are(
    zoo: Path, method: str, structure: dict[str, Any], said: str
) -> None:
    recipe = recipe_over(zoo, method, METHODS[method].max_experts or 3, structure=structure)
    live = LiveMerge(random_llama(seed=5), Sources(recipe))
    with pytest.raises(MergeError, match=said) as caught:
        CoefficientGradient(live, recipe)
    assert "`task_arithmetic`" in str(caught.value)


def test_a_gradient_that_is_not_finite_names_its_group(zoo: Path) -> None:
    recipe = made(zoo, "task_arithmetic")
    live = LiveMerge(random_llama(seed=5).float(), Sources(recipe))
    with CoefficientGradient(live, recipe) as slopes:
        (loss_of(live.model) * float("inf")).backward()  # type: ignore[no-untyped-call]
    with pytest.raises(MergeError, match=r"gradient of `.+` must be finite"):
        slopes.rows()
