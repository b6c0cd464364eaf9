"""A space as vectors, and its stages: each goes on exactly where the one before could only look coarsely."""

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from pydantic import TypeAdapter

from merging.groups import Group, groups_of
from merging.recipe import Recipe, Source
from search_spaces.bound import BoundSpace
from search_spaces.nested import STAGES, Frame, frame_of
from search_spaces.spec import SpaceSpec, bind

EXPERTS = ("reverse", "rotate", "dedupe")


def llama(layers: int) -> list[Group]:
    inside = ["self_attn.q_proj", "mlp.up_proj", "input_layernorm"]
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(layers) for part in inside]
    return groups_of(["model.embed_tokens.weight", *names, "model.norm.weight", "lm_head.weight"])


FLAT = groups_of(["embed_tokens.weight", "self_attn.q_proj.weight", "mlp.up_proj.weight", "lm_head.weight"])
FOUR_SETS = ["attention+norms", "mlp", "embeddings", "head"]
CASES: list[tuple[dict[str, object], list[Group]]] = [
    ({"granularity": "global"}, llama(4)),
    ({"granularity": "global"}, FLAT),
    ({"granularity": "global", "modules": FOUR_SETS}, llama(4)),
    ({"granularity": "layerwise"}, llama(1)),
    ({"granularity": "layerwise"}, llama(4)),
    ({"granularity": "layerwise", "modules": FOUR_SETS}, llama(6)),
    ({"granularity": "layerwise", "layers_per_group": 3, "modules": FOUR_SETS}, llama(7)),
    ({"granularity": "layerwise", "modules": ["mlp"], "rest": 0.4}, llama(5)),
    ({"granularity": "smooth", "anchors": 2}, llama(4)),
    ({"granularity": "smooth", "anchors": 4, "modules": FOUR_SETS, "bounds": [-0.1, 1.1]}, llama(9)),
    ({"granularity": "grown"}, llama(1)),
    ({"granularity": "grown"}, llama(8)),
    ({"granularity": "grown"}, FLAT),
    ({"granularity": "grown"}, [Group(None, "norms")]),
]
NAMES = [f"{spec['granularity']} {number}" for number, (spec, _) in enumerate(CASES)]
every_space = pytest.mark.parametrize(("spec", "groups"), CASES, ids=NAMES)


def framed(
    spec: dict[str, object], groups: list[Group], coefficients: Sequence[str] = EXPERTS
) -> tuple[BoundSpace, Frame]:
    template = Recipe(
        method="task_arithmetic",
        base=Source(path="base"),
        experts={name: Source(path=name) for name in coefficients},
        coefficients={},
    )
    parsed: SpaceSpec = TypeAdapter(SpaceSpec).validate_python(spec)
    space = bind(parsed, template, groups, coefficients)
    assert isinstance(space, BoundSpace)
    return space, frame_of(space, groups)


def drawn(frame: Frame, seed: int) -> np.ndarray:
    source = random.Random(seed)
    return np.array([source.uniform(low, high) for low, high in zip(frame.low, frame.high, strict=True)])


@every_space
def test_each_stage_contains_the_one_before(spec: dict[str, object], groups: list[Group]) -> None:
    _, frame = framed(spec, groups)
    for before, after in pairwise(frame.stages):
        assert after.dimensions > before.dimensions
        both = np.concatenate([after.basis, before.basis], axis=1)
        assert np.linalg.matrix_rank(both) == after.dimensions


@every_space
def test_the_last_stage_is_the_whole_space_and_the_first_one_scale_per_expert(
    spec: dict[str, object], groups: list[Group]
) -> None:
    _, frame = framed(spec, groups)
    assert np.linalg.matrix_rank(frame.stages[-1].basis) == frame.stages[-1].dimensions == len(frame.names)
    assert frame.stages[0].name == "scales"
    scaled = frame.stages[0].basis @ np.array([0.1, 0.2, 0.3])
    by_expert = {name.rpartition(".")[2]: set[float]() for name in frame.names}
    for name, value in zip(frame.names, scaled, strict=True):
        by_expert[name.rpartition(".")[2]].add(round(float(value), 12))
    assert by_expert == {"reverse": {0.1}, "rotate": {0.2}, "dedupe": {0.3}}


@every_space
def test_no_stage_has_a_direction_twice(spec: dict[str, object], groups: list[Group]) -> None:
    for stage in framed(spec, groups)[1].stages:
        assert np.linalg.matrix_rank(stage.basis) == stage.dimensions
        assert stage.dimensions % len(EXPERTS) == 0


@every_space
def test_a_step_in_a_stage_is_a_step_of_a_coefficient(spec: dict[str, object], groups: list[Group]) -> None:
    for stage in framed(spec, groups)[1].stages:
        assert np.abs(stage.basis).max(axis=0) == pytest.approx(np.ones(stage.dimensions))


@every_space
def test_the_gradient_by_parameters_is_that_by_rows_carried_back(spec: dict[str, object], groups: list[Group]) -> None:
    space, frame = framed(spec, groups)
    rng = np.random.default_rng(0)
    by_rows = {group.name: tuple(rng.normal(size=len(EXPERTS))) for group in groups}
    point = frame.low + 0.3 * (frame.high - frame.low)

    def value(at: np.ndarray) -> float:
        rows = space.recipe(frame.parameters(at)).coefficients
        return sum(float(np.dot(by_rows[group], row)) for group, row in rows.items())

    width = 1e-3
    differences = []
    for number in range(len(point)):
        step = np.zeros_like(point)
        step[number] = width
        differences.append((value(point + step) - value(point - step)) / (2 * width))
    assert frame.gradient(by_rows) == pytest.approx(np.array(differences), abs=1e-9)


@every_space
def test_groups_may_be_given_in_any_order_of_the_gradient(spec: dict[str, object], groups: list[Group]) -> None:
    _, frame = framed(spec, groups)
    rows = {group.name: (float(number), 1.0, 2.0) for number, group in enumerate(groups)}
    backwards = dict(reversed(rows.items()))
    assert np.array_equal(frame.gradient(rows), frame.gradient(backwards))


@every_space
def test_a_point_goes_to_parameters_and_back_without_a_change(spec: dict[str, object], groups: list[Group]) -> None:
    space, frame = framed(spec, groups)
    assert frame.names == tuple(space.distributions())
    for seed in range(3):
        point = drawn(frame, seed)
        assert np.array_equal(frame.vector(frame.parameters(point)), point)
        assert frame.contains(point)
        space.recipe(frame.parameters(point))


@every_space
def test_a_point_is_within_the_bounds_or_refused_by_name(spec: dict[str, object], groups: list[Group]) -> None:
    space, frame = framed(spec, groups)
    low, high = space.bounds
    assert set(frame.low) == {low}
    assert set(frame.high) == {high}
    outside = drawn(frame, 1)
    outside[-1] = np.nextafter(high, np.inf)
    assert not frame.contains(outside)
    with pytest.raises(ValueError, match=frame.names[-1].replace("+", r"\+")):
        frame.parameters(outside)
    projected = frame.project(outside)
    assert frame.contains(projected)
    assert projected[-1] == high
    assert np.array_equal(projected[:-1], outside[:-1])


@every_space
def test_a_point_that_is_not_a_number_is_not_within_the_bounds(spec: dict[str, object], groups: list[Group]) -> None:
    _, frame = framed(spec, groups)
    point = drawn(frame, 2)
    point[0] = np.nan
    assert not frame.contains(point)


def test_the_stages_of_a_layered_model_are_scales_depth_smooth_and_full() -> None:
    _, frame = framed({"granularity": "grown"}, llama(8))
    assert tuple(stage.name for stage in frame.stages) == STAGES
    assert [stage.dimensions for stage in frame.stages[:2]] == [3, 6]
    assert frame.stages[2].dimensions < frame.stages[3].dimensions == len(frame.names)


def test_depth_is_a_slope_from_the_input_to_the_output() -> None:
    _, frame = framed({"granularity": "grown"}, llama(3))
    slope = frame.stages[1].basis[:, len(EXPERTS)]
    by_name = dict(zip(frame.names, slope, strict=True))
    found = [
        by_name[f"weight.{place}.reverse"] for place in ("embeddings", "layer.0.mlp", "layer.1.mlp", "layer.2.mlp")
    ]
    assert [*found, by_name["weight.head.reverse"]] == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert by_name["weight.layer.0.attention.reverse"] == by_name["weight.layer.0.mlp.reverse"]
    assert all(value == 0 for name, value in by_name.items() if not name.endswith(".reverse"))


def test_stages_that_add_nothing_are_left_out() -> None:
    assert [stage.name for stage in framed({"granularity": "global"}, llama(4))[1].stages] == ["scales"]
    names = [stage.name for stage in framed({"granularity": "smooth", "anchors": 2}, llama(4))[1].stages]
    assert names[:2] == ["scales", "depth"]


def test_attention_and_mlp_can_differ_in_the_smooth_stage() -> None:
    _, frame = framed({"granularity": "grown"}, llama(8))
    smooth = next(stage for stage in frame.stages if stage.name == "smooth")
    wanted = np.array([float(".attention.reverse" in name) - float(".mlp.reverse" in name) for name in frame.names])
    solution = np.linalg.lstsq(smooth.basis, wanted, rcond=None)[0]
    assert smooth.basis @ solution == pytest.approx(wanted, abs=1e-9)


def test_a_method_with_a_single_number_has_stages_too() -> None:
    _, frame = framed({"granularity": "layerwise"}, llama(4), coefficients=("t",))
    assert frame.coefficients == ("t",)
    assert frame.stages[0].dimensions == 1
    assert np.array_equal(frame.stages[0].basis, np.ones((6, 1)))
