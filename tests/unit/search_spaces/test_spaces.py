"""What a user may rely on from every search space: parameters in, a whole recipe out."""

import random
import subprocess
import sys
from itertools import pairwise

import pytest
from pydantic import TypeAdapter, ValidationError

from merging.groups import Group, groups_of
from merging.recipe import Recipe, Source
from search_spaces.errors import SpaceError
from search_spaces.protocol import SearchSpace
from search_spaces.spec import SpaceSpec, bind

EXPERTS = ("reverse", "rotate", "dedupe")
TEMPLATE = Recipe(
    method="task_arithmetic",
    base=Source(path="base"),
    experts={name: Source(path=name) for name in EXPERTS},
    coefficients={},
)
FOUR_SETS = ["attention+norms", "mlp", "embeddings", "head"]
SPACES: list[dict[str, object]] = [
    {"granularity": "global"},
    {"granularity": "global", "modules": FOUR_SETS},
    {"granularity": "global", "bounds": [-0.25, 1.5]},
    {"granularity": "layerwise"},
    {"granularity": "layerwise", "modules": FOUR_SETS},
    {"granularity": "layerwise", "modules": ["all"]},
    {"granularity": "layerwise", "layers_per_group": 3},
    {"granularity": "layerwise", "modules": ["attention", "mlp"], "rest": 0.3},
    {"granularity": "smooth", "anchors": 2},
    {"granularity": "smooth", "anchors": 3, "modules": FOUR_SETS},
    {"granularity": "smooth", "anchors": 4},
]


def tensors(layers: int, tied: bool = False) -> list[str]:
    """The names in a Llama checkpoint."""
    inside = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm"]
    names = ["model.embed_tokens.weight"]
    names += [f"model.layers.{layer}.{part}.weight" for layer in range(layers) for part in inside]
    return [*names, "model.norm.weight", *([] if tied else ["lm_head.weight"])]


def space_of(
    spec: dict[str, object], groups: list[Group] | None = None, coefficients: tuple[str, ...] = EXPERTS
) -> SearchSpace:
    parsed: SpaceSpec = TypeAdapter(SpaceSpec).validate_python(spec)
    return bind(parsed, TEMPLATE, groups or groups_of(tensors(4)), coefficients)


def drawn(space: SearchSpace, seed: int) -> dict[str, float]:
    source = random.Random(seed)
    return {name: source.uniform(one.low, one.high) for name, one in space.distributions().items()}


@pytest.mark.parametrize("spec", SPACES)
def test_every_group_gets_a_row_with_one_number_per_expert(spec: dict[str, object]) -> None:
    space = space_of(spec)
    recipe = space.recipe(drawn(space, 1))
    assert list(recipe.coefficients) == [group.name for group in groups_of(tensors(4))]
    assert all(len(row) == len(EXPERTS) for row in recipe.coefficients.values())
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("spec", SPACES)
def test_the_same_parameters_give_the_same_recipe_in_any_order_of_keys(spec: dict[str, object]) -> None:
    parameters = drawn(space_of(spec), 2)
    backwards = dict(reversed(parameters.items()))
    assert space_of(spec).recipe(parameters).digest() == space_of(spec).recipe(backwards).digest()


@pytest.mark.parametrize("spec", SPACES)
def test_every_parameter_reaches_the_recipe(spec: dict[str, object]) -> None:
    space = space_of(spec)
    parameters = drawn(space, 3)
    digests = {space.recipe(parameters).digest()}
    for name, one in space.distributions().items():
        digests.add(space.recipe({**parameters, name: (parameters[name] + one.high) / 2}).digest())
    assert len(digests) == len(parameters) + 1


@pytest.mark.parametrize("spec", SPACES)
@pytest.mark.parametrize("row", [(0.3, 0.3, 0.3), (0.1, 0.7, 0.9)])
def test_a_row_that_is_expressed_comes_back_in_every_group_to_the_last_bit(
    spec: dict[str, object], row: tuple[float, ...]
) -> None:
    space = space_of(spec)
    parameters = space.express(row)
    if "rest" in spec and row != (0.3, 0.3, 0.3):
        assert parameters is None
        return
    assert parameters is not None
    assert list(parameters) == list(space.distributions())
    assert list(space.recipe(parameters).coefficients.values()) == [row] * len(groups_of(tensors(4)))


@pytest.mark.parametrize("spec", SPACES)
def test_coefficients_stay_within_the_bounds_without_a_clamp(spec: dict[str, object]) -> None:
    space = space_of(spec)
    low, high = next((one.low, one.high) for one in space.distributions().values())
    for seed in range(20):
        source = random.Random(seed)
        corners = {name: source.choice([one.low, one.high]) for name, one in space.distributions().items()}
        rows = space.recipe(corners).coefficients.values()
        assert all(low <= value <= high for row in rows for value in row)


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ({"granularity": "global"}, 3),
        ({"granularity": "global", "modules": FOUR_SETS}, 4 * 3),
        ({"granularity": "layerwise"}, (4 + 2) * 3),
        ({"granularity": "layerwise", "modules": FOUR_SETS}, (4 * 2 + 2) * 3),
        ({"granularity": "layerwise", "layers_per_group": 3}, (2 + 2) * 3),
        ({"granularity": "layerwise", "modules": ["attention"], "rest": 0.0}, 4 * 3),
        ({"granularity": "smooth", "anchors": 2}, (2 + 2) * 3),
        ({"granularity": "smooth", "anchors": 3, "modules": FOUR_SETS}, (3 * 2 + 2) * 3),
    ],
)
def test_a_space_has_as_many_parameters_as_its_documentation_says(spec: dict[str, object], count: int) -> None:
    assert len(space_of(spec).distributions()) == count


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"granularity": "global"}, ["weight.reverse"]),
        (
            {"granularity": "global", "modules": FOUR_SETS},
            ["weight.attention+norms.reverse", "weight.embeddings.reverse"],
        ),
        (
            {"granularity": "layerwise"},
            ["weight.layer.2.reverse", "weight.embeddings.reverse", "weight.head+norms.reverse"],
        ),
        (
            {"granularity": "layerwise", "modules": FOUR_SETS},
            ["weight.layer.2.attention+norms.reverse", "weight.layer.2.mlp.reverse", "weight.head.reverse"],
        ),
        (
            {"granularity": "layerwise", "modules": ["all"]},
            ["weight.layer.0.rotate", "weight.outside.rotate"],
        ),
        (
            {"granularity": "layerwise", "layers_per_group": 3, "modules": FOUR_SETS},
            ["weight.layers.0-2.mlp.reverse", "weight.layer.3.mlp.reverse"],
        ),
        (
            {"granularity": "smooth", "anchors": 3, "modules": FOUR_SETS},
            ["weight.depth.0.mlp.dedupe", "weight.depth.2.attention+norms.dedupe"],
        ),
    ],
)
def test_a_parameter_says_in_its_name_what_it_scales(spec: dict[str, object], names: list[str]) -> None:
    distributions = space_of(spec).distributions()
    assert [name for name in names if name not in distributions] == []


def test_a_method_with_a_single_number_has_one_parameter_per_place() -> None:
    assert list(space_of({"granularity": "global"}, coefficients=("t",)).distributions()) == ["weight.t"]


def test_the_final_norm_follows_the_head_in_every_space() -> None:
    for granularity in ("global", "layerwise"):
        space = space_of({"granularity": granularity, "modules": FOUR_SETS})
        rows = space.recipe(drawn(space, 5)).coefficients
        assert rows["norms"] == rows["head"]
        assert rows["norms"] != rows["layer.0.norms"] == rows["layer.0.attention"]


def test_a_tied_head_leaves_the_final_norm_in_the_head_set() -> None:
    space = space_of({"granularity": "global", "modules": FOUR_SETS}, groups_of(tensors(4, tied=True)))
    assert "weight.head.rotate" in space.distributions()


@pytest.mark.parametrize("modules", [None, FOUR_SETS])
def test_a_layerwise_space_contains_every_point_of_the_global_and_the_smooth_space(
    modules: list[str] | None,
) -> None:
    layered = space_of({"granularity": "layerwise", "modules": modules})
    for spec in ({"granularity": "global"}, {"granularity": "smooth", "anchors": 3}):
        smaller = space_of({**spec, "modules": modules})
        target = smaller.recipe(drawn(smaller, 7)).coefficients
        parameters = {}
        for name in layered.distributions():
            place, expert = name.removeprefix("weight.").rsplit(".", 1)
            group = {"head+norms": "head"}.get(place, place.replace("attention+norms", "attention"))
            row = target.get(group) or target[f"{group}.mlp"]
            parameters[name] = row[EXPERTS.index(expert)]
        assert layered.recipe(parameters).coefficients == target


def test_a_smooth_space_draws_straight_lines_over_depth() -> None:
    space = space_of({"granularity": "smooth", "anchors": 2}, groups_of(tensors(5)))
    parameters = dict.fromkeys(space.distributions(), 0.0) | {"weight.depth.1.rotate": 1.0}
    rows = space.recipe(parameters).coefficients
    assert [rows[f"layer.{layer}.mlp"][1] for layer in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    middle = space_of({"granularity": "smooth", "anchors": 3}, groups_of(tensors(7)))
    values = dict.fromkeys(middle.distributions(), 0.0) | {"weight.depth.1.rotate": 1.0}
    rows = middle.recipe(values).coefficients
    steps = [rows[f"layer.{layer}.mlp"][1] for layer in range(7)]
    assert steps == pytest.approx([0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0])
    assert all(abs(b - a) == pytest.approx(1 / 3) for a, b in pairwise(steps))


def test_what_no_set_names_is_held_at_rest() -> None:
    space = space_of({"granularity": "layerwise", "modules": ["mlp"], "rest": 0.4})
    rows = space.recipe(drawn(space, 8)).coefficients
    assert rows["embeddings"] == rows["norms"] == rows["head"] == rows["layer.3.attention"] == (0.4,) * 3
    assert rows["layer.3.mlp"] != (0.4,) * 3


def test_leaving_modules_out_without_rest_is_refused_by_their_names() -> None:
    with pytest.raises(SpaceError, match=r"attention, norms, embeddings, head .*`rest`"):
        space_of({"granularity": "layerwise", "modules": ["mlp"]})


def test_a_set_without_tensors_is_refused_by_its_name() -> None:
    with pytest.raises(SpaceError, match=r"none for 'other'; it has attention, mlp, norms"):
        space_of({"granularity": "global", "modules": [*FOUR_SETS, "other"]})


def test_layers_are_needed_where_the_space_goes_by_layers() -> None:
    with pytest.raises(SpaceError, match="use granularity `global`"):
        space_of({"granularity": "layerwise"}, groups_of(["embed_tokens.weight", "lm_head.weight"]))
    with pytest.raises(SpaceError, match="at most the number of layers, 4, but is 5"):
        space_of({"granularity": "smooth", "anchors": 5})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"granularity": "global", "modules": ["atention"]}, "did you mean 'attention'"),
        ({"granularity": "global", "modules": ["mlp", "mlp+head"]}, "may be named once"),
        ({"granularity": "global", "modules": ["all", "mlp"]}, "may be named once"),
        ({"granularity": "global", "modules": []}, "at least one module set"),
        ({"granularity": "global", "bounds": [1, 1]}, "low < high"),
        ({"granularity": "global", "bounds": [0, float("inf")]}, "finite"),
        ({"granularity": "global", "anchors": 3}, "Extra inputs"),
        ({"granularity": "layerwise", "layers_per_group": 0}, "greater than or equal to 1"),
        ({"granularity": "smooth", "anchors": 1}, "greater than or equal to 2"),
        ({"granularity": "tensorwise"}, "'global', 'layerwise', 'smooth'"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_at_the_door(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(SpaceSpec).validate_python(spec)


def test_parameters_that_do_not_fit_are_refused_by_name() -> None:
    space = space_of({"granularity": "global"})
    good = {"weight.reverse": 0.1, "weight.rotate": 0.2, "weight.dedupe": 0.3}
    with pytest.raises(SpaceError, match=r"first 'weight.rotate'"):
        space.recipe({name: value for name, value in good.items() if name != "weight.rotate"})
    with pytest.raises(SpaceError, match=r"'weight.rotat' is none of them; the nearest is 'weight.rotate'"):
        space.recipe({**good, "weight.rotat": 0.5})
    for value in (1.0000001, -0.1, float("nan")):
        with pytest.raises(SpaceError, match=r"`weight.dedupe` must be in \[0, 1\]"):
            space.recipe({**good, "weight.dedupe": value})


def test_a_point_outside_the_bounds_cannot_be_expressed() -> None:
    assert space_of({"granularity": "global"}).express((0.0, 1.2, 0.0)) is None
    assert space_of({"granularity": "global", "bounds": [0, 1.5]}).express((0.0, 1.2, 0.0)) is not None
    with pytest.raises(SpaceError, match="has 1"):
        space_of({"granularity": "global"}).express((0.5,))


def test_a_name_too_long_for_the_database_is_refused_before_the_search() -> None:
    with pytest.raises(SpaceError, match="512 characters"):
        space_of({"granularity": "global"}, coefficients=("x" * 510,))


def test_the_job_file_can_be_read_without_importing_optuna_or_torch() -> None:
    code = "import sys, search_spaces.spec; print([m for m in ('optuna', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
