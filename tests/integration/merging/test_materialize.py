"""A recipe and the same files give the same weights, whatever the files' layout."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import random_llama, recipe_over, save, with_noise
from torch import Tensor

from merging.groups import group_of
from merging.materialize import Making, MergeError, Sources, check_method, materialize
from merging.methods import METHODS
from merging.pieces import CHUNK
from merging.recipe import Recipe, Source

EVERY = pytest.mark.parametrize("method", METHODS)
Copy = Callable[[str], Path]


def experts_for(method: str) -> int:
    return METHODS[method].max_experts or 3


def made(recipe: Recipe, sources: Sources | None = None) -> dict[str, Tensor]:
    return dict(materialize(recipe, sources or Sources(recipe)))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@EVERY
def test_every_tensor_of_the_base_comes_once_in_order_and_in_its_dtype(zoo: Path, method: str) -> None:
    recipe = recipe_over(zoo, method, experts_for(method))
    names = [name for name, _ in materialize(recipe, Sources(recipe))]
    assert names == sorted(load_file(zoo / "base" / "model.safetensors"))
    assert all(tensor.dtype == torch.bfloat16 for tensor in made(recipe).values())


@EVERY
def test_a_merge_does_not_depend_on_how_checkpoints_are_cut_into_files(zoo: Path, method: str, tmp_path: Path) -> None:
    recipe = recipe_over(zoo, method, experts_for(method))
    base = random_llama(seed=0)
    save(base, tmp_path / "base", shard="20KB")
    for seed, name in enumerate(recipe.experts, start=1):
        save(with_noise(base, seed), tmp_path / name, shard="30KB")
    cut = recipe_over(tmp_path, method, experts_for(method))
    assert same(made(recipe), made(cut))


@EVERY
def test_every_group_gets_its_own_row(zoo: Path, method: str) -> None:
    """Each tensor is what the method gives when called alone with its group's row."""
    recipe = recipe_over(zoo, method, experts_for(method))
    sources = Sources(recipe)
    for name, merged in made(recipe, sources).items():
        at = Making(recipe, sources).place(name)
        assert at.row == recipe.coefficients[group_of(name).name]
        stored = [sources.reference.tensor(name), *(one.tensor(name) for one in sources.experts.values())]
        alone = METHODS[method].merge(stored[0], stored[1:], at)
        assert torch.equal(merged, alone.bfloat16())


@EVERY
def test_another_dtype_is_one_cast_of_the_same_numbers(zoo: Path, method: str) -> None:
    recipe = recipe_over(zoo, method, experts_for(method))
    wide = made(recipe.model_copy(update={"dtype": "float32"}))
    assert all(tensor.dtype == torch.float32 for tensor in wide.values())
    assert same({name: tensor.bfloat16() for name, tensor in wide.items()}, made(recipe))


@EVERY
def test_sources_are_never_written_to(zoo: Path, method: str) -> None:
    recipe = recipe_over(zoo, method, experts_for(method))
    sources = Sources(recipe)
    for _, tensor in materialize(recipe, sources):
        tensor.fill_(0)
    for name, checkpoint in {"base": sources.reference, **sources.experts}.items():
        stored = load_file(zoo / name / "model.safetensors")
        assert all(torch.equal(checkpoint.tensor(key), tensor) for key, tensor in stored.items())


def test_large_tensors_are_merged_in_pieces_with_the_same_bits(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (3, CHUNK // 2 + 77)
    for name in ("base", "reverse", "sort", "add"):
        (tmp_path / name).mkdir()
        save_file({"head.weight": torch.randn(shape, generator=generator)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    for method in ("task_arithmetic", "ties", "linear"):
        recipe = recipe_over(tmp_path, method)
        sources = Sources(recipe)
        stored = [sources.reference.tensor("head.weight")]
        stored += [one.tensor("head.weight") for one in sources.experts.values()]
        whole = METHODS[method].merge(stored[0], stored[1:], Making(recipe, sources).place("head.weight"))
        assert torch.equal(made(recipe, sources)["head.weight"], whole)


def test_whole_model_thresholds_are_those_of_a_full_sort(zoo: Path) -> None:
    recipe = recipe_over(zoo, "ties", structure={"density": 0.2})
    sources = Sources(recipe)
    base = load_file(zoo / "base" / "model.safetensors")
    for number, name in enumerate(recipe.experts):
        expert = load_file(zoo / name / "model.safetensors")
        vector = torch.cat([(expert[key].float() - base[key].float()).abs().flatten() for key in base])
        k = round(0.2 * vector.numel())
        assert sources.survey(recipe, check_method(recipe))[number] == vector.sort(descending=True).values[k - 1].item()


def test_ties_over_the_whole_model_is_not_ties_tensor_by_tensor(zoo: Path) -> None:
    whole = recipe_over(zoo, "ties", structure={"density": 0.1})
    each = recipe_over(zoo, "ties", structure={"density": 0.1, "scope": "tensor"})
    assert not same(made(whole), made(each))


def test_one_set_of_sources_serves_other_methods_and_fewer_experts(zoo: Path) -> None:
    sources = Sources(recipe_over(zoo))
    for recipe in (recipe_over(zoo, "ties"), recipe_over(zoo, "slerp", 2), recipe_over(zoo, "linear", 2)):
        assert same(made(recipe, sources), made(recipe))


def test_a_recipe_over_other_models_is_refused(zoo: Path) -> None:
    recipe = recipe_over(zoo)
    sources = Sources(recipe)
    experts = {**recipe.experts, "sort": recipe.experts["add"]}
    with pytest.raises(MergeError, match=r"the recipe's expert `sort` .* there is: reverse, sort, add"):
        made(recipe.model_copy(update={"experts": experts}), sources)
    with pytest.raises(MergeError, match="the recipe's base"):
        made(recipe.model_copy(update={"base": recipe.experts["add"]}), sources)


def test_without_a_base_the_first_expert_lends_names_and_dtype(zoo: Path) -> None:
    recipe = recipe_over(zoo, "linear", base=None)
    merged = made(recipe)
    assert list(merged) == sorted(merged)
    total = sum(recipe.coefficients["norms"])
    tensors = [load_file(zoo / name / "model.safetensors")["model.norm.weight"].double() for name in recipe.experts]
    weights = [weight / total for weight in recipe.coefficients["norms"]]
    mean = sum(weight * tensor for weight, tensor in zip(weights, tensors, strict=True))
    assert torch.allclose(merged["model.norm.weight"].double(), mean, atol=4e-3)
    assert Sources(recipe).config_folder == str(zoo / "reverse")


def with_extra(folder: Path, tensor: Tensor) -> None:
    stored = load_file(folder / "model.safetensors")
    save_file(stored | {"model.layers.0.extra": tensor}, folder / "model.safetensors")


@EVERY
def test_whole_numbers_come_from_the_base_unchanged(zoo: Path, copy_of: Copy, method: str) -> None:
    recipe = recipe_over(zoo, method, experts_for(method))
    folders = {name: copy_of(name) for name in ("base", *recipe.experts)}
    for number, folder in enumerate(folders.values()):
        with_extra(folder, torch.arange(5) + number)
    recipe = recipe.model_copy(
        update={
            "base": Source(path=str(folders["base"])),
            "experts": {name: Source(path=str(folders[name])) for name in recipe.experts},
            "coefficients": {
                "layer.0.other": next(iter(recipe.coefficients.values())),
                **recipe.coefficients,
            },
            "dtype": "float16",
        }
    )
    sources = Sources(recipe)
    merged = made(recipe, sources)["model.layers.0.extra"]
    assert torch.equal(merged, torch.arange(5))
    merged.fill_(9)  # what is given away is no part of the mapped file
    assert torch.equal(made(recipe, sources)["model.layers.0.extra"], torch.arange(5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@EVERY
def test_a_merge_that_is_not_finite_names_its_tensor(zoo: Path, copy_of: Copy, method: str, value: float) -> None:
    broken = copy_of("reverse")
    stored = load_file(broken / "model.safetensors")
    stored["model.norm.weight"][3] = value
    save_file(stored, broken / "model.safetensors")
    recipe = recipe_over(zoo, method, experts_for(method))
    experts = {**recipe.experts, "reverse": Source(path=str(broken))}
    with pytest.raises(MergeError, match=r"`model\.norm\.weight` must be finite"):
        made(recipe.model_copy(update={"experts": experts}))


def test_overflow_of_a_narrow_dtype_is_refused(zoo: Path) -> None:
    recipe = recipe_over(zoo)
    rows = dict.fromkeys(recipe.coefficients, (100000000.0, 0.0, 0.0))
    recipe = recipe.model_copy(update={"coefficients": rows, "dtype": "float16"})
    with pytest.raises(MergeError, match="NaN or infinity as float16"):
        made(recipe)


def test_a_changed_model_does_not_pass_for_the_recorded_one(zoo: Path, copy_of: Copy) -> None:
    recipe = recipe_over(zoo)
    known = Sources(recipe).fingerprinted(recipe)
    assert all(source.fingerprint for source in (known.base, *known.experts.values()) if source)
    Sources(known).verify()
    moved = copy_of("sort")
    experts = {**known.experts, "sort": known.experts["sort"].model_copy(update={"path": str(moved)})}
    elsewhere = known.model_copy(update={"experts": experts})
    Sources(elsewhere).verify()
    assert elsewhere.digest() == known.digest()
    stored = load_file(moved / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in stored.items()}, moved / "model.safetensors")
    with pytest.raises(MergeError, match="the weights must have fingerprint"):
        Sources(elsewhere).verify()


def test_models_that_do_not_fit_are_refused_when_opened(zoo: Path, tmp_path: Path) -> None:
    save(random_llama(seed=0, tied=True), tmp_path / "tied")
    recipe = recipe_over(zoo)
    experts = {**recipe.experts, "sort": Source(path=str(tmp_path / "tied"))}
    with pytest.raises(ValueError, match=r"lacks 1 tensors \(`lm_head\.weight`\)"):
        Sources(recipe.model_copy(update={"experts": experts}))


def test_the_same_candidate_always_has_the_same_weights_in_a_new_process(zoo: Path) -> None:
    import subprocess
    import sys

    recipe = recipe_over(zoo, "dare_ties")
    code = (
        "import sys, hashlib, torch; from merging.recipe import Recipe; "
        "from merging.materialize import Sources, materialize; "
        "recipe = Recipe.model_validate_json(sys.stdin.read()); total = hashlib.sha256(); "
        "[total.update(t.view(torch.uint8).numpy()) for _, t in materialize(recipe, Sources(recipe))]; "
        "print(total.hexdigest())"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", code],
            input=recipe.model_dump_json(),
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1]
