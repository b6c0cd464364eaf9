"""What a search starts from: rows anyone can check by hand, and the parameters that give them."""

import random
from typing import Any

import pytest
from pydantic import TypeAdapter

from merging.groups import Group
from merging.recipe import Recipe, Source
from optimizer.starts import by_norms, expressed, sloped
from search_spaces.bound import BoundSpace
from search_spaces.errors import SpaceError
from search_spaces.spec import SpaceSpec, bind

LAYERS = 5
GROUPS = [
    *(Group(layer, module) for layer in range(LAYERS) for module in ("attention", "mlp", "norms")),
    Group(None, "norms"),
    Group(None, "embeddings"),
    Group(None, "head"),
]
REAL = ("reverse", "rotate")
EXPERTS = (*REAL, "virtual ties")
NORMS = {
    "reverse": {group.name: 3.0 for group in GROUPS},
    "rotate": {group.name: 1.0 for group in GROUPS},
}


def space(**facts: Any) -> BoundSpace:
    template = Recipe(
        method="task_arithmetic",
        base=Source(path="base"),
        experts={name: Source(path=name) for name in EXPERTS},
        coefficients={},
    )
    spec: Any = TypeAdapter(SpaceSpec).validate_python({"bounds": (-0.25, 1.5), **facts})
    bound = bind(spec, template, GROUPS, EXPERTS)
    assert isinstance(bound, BoundSpace)
    return bound


GROWN = space(granularity="grown")
EVERY = pytest.mark.parametrize(
    "bound",
    [
        GROWN,
        space(granularity="global"),
        space(granularity="layerwise"),
        space(granularity="layerwise", layers_per_group=2),
        space(granularity="layerwise", modules=["attention", "mlp"], rest=0.3),
        space(granularity="smooth", anchors=2),
        space(granularity="smooth", anchors=4),
    ],
    ids=lambda bound: f"{len(bound.names())} parameters",
)


def everywhere(*row: float) -> dict[str, tuple[float, ...]]:
    return {group.name: row for group in GROUPS}


def test_norms_of_the_experts_alone_give_the_row_of_all_groups() -> None:
    assert by_norms(GROUPS, EXPERTS, NORMS).rows == everywhere(0.75, 0.25, 0)


def test_lines_rise_from_the_embeddings_to_the_head() -> None:
    rows = sloped(GROUPS, EXPERTS, REAL, 0.2, 0.8).rows
    for layer, value in enumerate((0.2, 0.4, 0.6, 0.8, 1.0)):
        for module in ("attention", "mlp", "norms"):
            assert rows[f"layer.{layer}.{module}"] == pytest.approx((value, value, 0.0))
    assert rows["embeddings"] == (0.2, 0.2, 0.0)
    assert rows["head"] == rows["norms"] == (1.0, 1.0, 0.0)


def test_lines_count_layers_by_their_order_and_do_with_one_or_none() -> None:
    apart = [Group(3, "mlp"), Group(100, "mlp"), Group(200, "mlp")]
    assert [row[0] for row in sloped(apart, REAL, REAL, 0.0, 1.0).rows.values()] == [0.0, 0.5, 1.0]
    assert sloped(apart[:1], REAL, REAL, 0.3, 1.0).rows == {"layer.3.mlp": (0.3, 0.3)}
    assert sloped([Group(None, "head")], REAL, REAL, 0.25, 0.5).rows == {"head": (0.75, 0.75)}


def test_equal_norms_give_the_uniform_average_and_none_at_all_is_refused() -> None:
    equal = dict.fromkeys(REAL, NORMS["rotate"])
    assert by_norms(GROUPS, EXPERTS, equal).rows == everywhere(0.5, 0.5, 0)
    with pytest.raises(ValueError, match="reverse, rotate do not"):
        by_norms(GROUPS, EXPERTS, {name: dict.fromkeys(NORMS[name], 0.0) for name in REAL})


def test_every_start_is_a_point_of_the_grown_space() -> None:
    for start in (sloped(GROUPS, EXPERTS, REAL, 0.3, 0.4), by_norms(GROUPS, EXPERTS, NORMS)):
        parameters = expressed(GROWN, start.rows)
        assert parameters is not None
        assert GROWN.recipe(parameters).coefficients == start.rows


@EVERY
def test_the_rows_of_any_point_are_expressed_again(bound: BoundSpace) -> None:
    rng = random.Random(3)
    for _ in range(10):
        point = {name: rng.choice((*bound.bounds, rng.uniform(*bound.bounds))) for name in bound.names()}
        rows = bound.recipe(point).coefficients
        found = expressed(bound, rows)
        assert found is not None
        assert list(found) == list(point)
        for group, row in bound.recipe(found).coefficients.items():
            assert row == pytest.approx(rows[group], abs=1e-9)


@EVERY
def test_constant_rows_are_expressed_as_the_space_itself_expresses_them(bound: BoundSpace) -> None:
    for row in ((0.3, 0.3, 0.3), (0.5, -0.25, 1.5), (2.0, 0.0, 0.0)):
        assert expressed(bound, {group.name: row for group in GROUPS}) == pytest.approx(bound.express(row))


@EVERY
def test_rows_beside_the_space_are_no_point_of_it(bound: BoundSpace) -> None:
    point = dict.fromkeys(bound.names(), 0.5)
    rows = bound.recipe(point).coefficients
    beside = {**rows, "layer.2.norms": (rows["layer.2.norms"][0] + 1e-6, *rows["layer.2.norms"][1:])}
    assert expressed(bound, rows) is not None
    assert expressed(bound, beside) is None
    assert expressed(bound, dict.fromkeys(rows, (1.6, 0.0, 0.0))) is None


def test_rows_that_are_not_one_for_every_group_are_refused() -> None:
    rows = everywhere(0.3, 0.3, 0)
    with pytest.raises(SpaceError, match="1 have none, first 'head'"):
        expressed(GROWN, {group: row for group, row in rows.items() if group != "head"})
    with pytest.raises(SpaceError, match=r"'layer\.9\.mlp' is none of them"):
        expressed(GROWN, {**rows, "layer.9.mlp": (0.0, 0.0, 0.0)})
    with pytest.raises(SpaceError, match="'head' has 2"):
        expressed(GROWN, {**rows, "head": (0.0, 0.0)})
