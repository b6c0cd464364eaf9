"""The grown space: a coefficient for each expert, layer and kind of module, whatever the model."""

import pytest
from pydantic import ValidationError

from merging.groups import Group, groups_of
from merging.recipe import Recipe, Source
from search_spaces.bound import BoundSpace
from search_spaces.errors import SpaceError
from search_spaces.grown import GrownSpace
from search_spaces.spec import bind

EXPERTS = ("reverse", "rotate")
LLAMA = groups_of(
    ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    + [
        f"model.layers.{layer}.{part}.weight"
        for layer in range(3)
        for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
    ]
)


def space_of(groups: list[Group], **settings: object) -> BoundSpace:
    template = Recipe(
        method="task_arithmetic",
        base=Source(path="base"),
        experts={name: Source(path=name) for name in EXPERTS},
        coefficients={},
    )
    spec = GrownSpace.model_validate({"granularity": "grown", **settings})
    space = bind(spec, template, groups, EXPERTS)
    assert isinstance(space, BoundSpace)
    return space


def coordinates(groups: list[Group], **settings: object) -> list[str]:
    return list(space_of(groups, **settings).coordinates)


def test_every_layer_has_one_coefficient_for_attention_and_one_for_mlp() -> None:
    inside = [f"layer.{layer}.{module}" for layer in range(3) for module in ("attention", "mlp")]
    assert sorted(coordinates(LLAMA)) == sorted([*inside, "embeddings", "head"])
    assert len(space_of(LLAMA).names()) == 8 * len(EXPERTS)


def test_norms_follow_attention_inside_and_the_head_outside() -> None:
    space = space_of(LLAMA)
    parameters = {name: 0.01 * number for number, name in enumerate(space.names())}
    rows = space.recipe(parameters).coefficients
    assert rows["layer.1.norms"] == rows["layer.1.attention"] != rows["layer.1.mlp"]
    assert rows["norms"] == rows["head"] != rows["embeddings"]


def test_in_a_layer_without_attention_norms_follow_what_there_is() -> None:
    groups = [Group(0, "mlp"), Group(0, "norms"), Group(1, "norms"), Group(2, "other"), Group(2, "attention")]
    assert coordinates(groups) == ["layer.0.mlp", "layer.1.norms", "layer.2.attention"]


def test_a_model_without_numbered_layers_fits() -> None:
    groups = groups_of(["embed_tokens.weight", "self_attn.q_proj.weight", "mlp.up_proj.weight", "lm_head.weight"])
    assert sorted(coordinates(groups)) == ["attention", "embeddings", "head", "mlp"]


def test_a_model_of_one_norm_fits() -> None:
    assert coordinates([Group(None, "norms")]) == ["head"]


def test_sets_that_a_job_names_are_used_instead() -> None:
    assert sorted(coordinates(LLAMA, modules=["all"])) == ["all", "layer.0.all", "layer.1.all", "layer.2.all"]
    held = space_of(LLAMA, modules=["mlp"], rest=0.3)
    assert list(held.coordinates) == [f"layer.{layer}.mlp" for layer in range(3)]
    rows = held.recipe(dict.fromkeys(held.names(), 0.9)).coefficients
    assert (rows["layer.0.norms"], rows["embeddings"]) == ((0.3, 0.3), (0.3, 0.3))
    with pytest.raises(SpaceError, match="`rest`"):
        space_of(LLAMA, modules=["mlp"])


def test_every_expert_may_be_extrapolated_and_negated_a_little_unless_the_job_says_otherwise() -> None:
    assert space_of(LLAMA).bounds == (-0.25, 1.5)
    assert space_of(LLAMA, bounds=[0, 1]).bounds == (0.0, 1.0)


@pytest.mark.parametrize("row", [(0.0, 0.0), (1.0, 0.0), (0.5, 0.5), (-0.25, 1.5)])
def test_a_merge_that_is_the_same_everywhere_is_a_point_of_it(row: tuple[float, float]) -> None:
    space = space_of(LLAMA)
    parameters = space.express(row)
    assert parameters is not None
    assert list(space.recipe(parameters).coefficients.values()) == [row] * len(LLAMA)


def test_settings_of_other_spaces_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        GrownSpace.model_validate({"granularity": "grown", "layers_per_group": 2})
