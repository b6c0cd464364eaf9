"""Methods whose weights follow from lengths, angles and depth, against their closed forms."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging.methods import METHODS, At
from merging.methods.gram import gram
from merging.methods.searchable import Range, searchable

LAWS = ("nuslerp", "karcher", "multislerp")


def drawn(count: int, shape: Sequence[int] = (6, 7), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def at(method: str, row: Sequence[float], depth: float | None = None, survey: Any = None, **settings: Any) -> At[Any]:
    structure = METHODS[method].structure.model_validate(settings)
    return At("tensor", tuple("abcdefgh"[: len(row)]), tuple(row), structure, depth=depth, survey=survey)


def merged(method: str, base: Tensor | None, tuned: Sequence[Tensor], row: Sequence[float], **settings: Any) -> Tensor:
    return METHODS[method].merge(base, tuned, at(method, row, **settings))


def arc(v0: Tensor, v1: Tensor, t: float) -> Tensor:
    a, b = v0.double(), v1.double()
    angle = 2 * math.atan2((a / a.norm() - b / b.norm()).norm().item(), (a / a.norm() + b / b.norm()).norm().item())
    found: Tensor = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
    return found


def rotation(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    turn: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return turn.float()


@pytest.mark.parametrize("method", LAWS)
def test_a_one_hot_row_gives_that_expert_with_and_without_a_base(method: str) -> None:
    base, one, other = drawn(3)
    for origin in (None, base):
        assert torch.allclose(merged(method, origin, [one, other], (0.0, 1.0)), other, atol=1e-6)
        assert torch.allclose(merged(method, origin, [one, other], (2.5, 0.0)), one, atol=1e-6)


@pytest.mark.parametrize("method", LAWS)
def test_only_the_shares_of_the_weights_count(method: str) -> None:
    tuned = drawn(2)
    assert torch.equal(merged(method, None, tuned, (1.0, 3.0)), merged(method, None, tuned, (4.0, 12.0)))


@pytest.mark.parametrize("method", LAWS)
def test_weights_that_cancel_are_refused_before_the_merge(method: str) -> None:
    known = METHODS[method]
    assert "must not sum to zero" in str(known.row_error((0.0, 0.0), known.structure()))
    assert known.row_error((0.5, 0.2), known.structure()) is None


def test_a_mean_on_the_sphere_needs_weights_of_one_sign() -> None:
    known = METHODS["karcher"]
    assert "both signs" in str(known.row_error((0.5, -0.2), known.structure()))
    assert known.row_error((-0.5, -0.2, 0.0), known.structure()) is None
    assert METHODS["nuslerp"].row_error((1.2, -0.2), known.structure()) is None  # beyond the first expert


@pytest.mark.parametrize("method", [*LAWS, "model_stock"])
def test_turning_all_models_turns_the_merge(method: str) -> None:
    base, *tuned = drawn(3)
    turn = rotation(6)
    straight = merged(method, base, tuned, (0.4, 0.8))
    assert torch.allclose(
        merged(method, turn @ base, [turn @ one for one in tuned], (0.4, 0.8)), turn @ straight, atol=1e-5
    )


@pytest.mark.parametrize("method", [*LAWS, "model_stock", "metagpt", "nan", "lines"])
def test_longer_task_vectors_move_the_merge_as_much_further(method: str) -> None:
    tuned = drawn(2)
    zero = torch.zeros(6, 7)
    settings = {"scope": "tensor"} if method in ("metagpt", "nan") else {}
    straight = merged(method, zero, tuned, (0.4, 0.8), **settings)
    doubled = merged(method, zero, [3 * one for one in tuned], (0.4, 0.8), **settings)
    assert torch.allclose(doubled, 3 * straight, atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 1.0])
def test_nuslerp_is_the_arc_between_experts_or_between_task_vectors(t: float) -> None:
    base, one, other = drawn(3)
    assert torch.allclose(merged("nuslerp", None, [one, other], (1 - t, t)).double(), arc(one, other, t), atol=1e-6)
    shifted = merged("nuslerp", base, [base + one, base + other], (2 - 2 * t, 2 * t))
    assert torch.allclose(shifted.double(), base.double() + arc(one, other, t), atol=1e-5)


def test_nuslerp_of_a_zero_base_is_nuslerp_without_one() -> None:
    tuned = drawn(2)
    assert torch.equal(merged("nuslerp", torch.zeros(6, 7), tuned, (1, 2)), merged("nuslerp", None, tuned, (1, 2)))


@pytest.mark.parametrize("method", ["nuslerp", "karcher"])
@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_the_small_angles_of_fine_tunes_are_exact(method: str, noise: float) -> None:
    v0, step = drawn(2, (5000,))
    v1 = v0 + noise * step
    v1 *= v0.norm() / v1.norm()
    assert torch.allclose(merged(method, None, [v0, v1], (0.7, 0.3)).double(), arc(v0, v1, 0.3), atol=1e-6)


@pytest.mark.parametrize("method", LAWS)
@pytest.mark.parametrize("factor", [2.0, 1.0, -1.0, 0.0])
def test_colinear_models_are_interpolated_along_their_line(method: str, factor: float) -> None:
    v0 = torch.tensor([3.0, -4.0])
    found = merged(method, None, [v0, factor * v0], (0.75, 0.25))
    expected = 0.75 * v0 + 0.25 * factor * v0
    if method == "multislerp" and factor == -1:
        expected = v0  # the mean of the directions is v0's own, at the mean of the lengths
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["karcher", "multislerp"])
def test_opposite_models_of_equal_weight_have_no_mean_direction_and_are_averaged(method: str) -> None:
    v0 = torch.tensor([3.0, -4.0])
    assert torch.allclose(merged(method, None, [v0, -3 * v0], (0.5, 0.5)), -v0, atol=1e-6)


def test_each_row_of_a_matrix_may_have_its_arc() -> None:
    one, other = drawn(2)
    rows = torch.stack([arc(a, b, 0.3) for a, b in zip(one, other, strict=True)])
    columns = torch.stack([arc(a, b, 0.3) for a, b in zip(one.T, other.T, strict=True)]).T
    assert torch.allclose(merged("nuslerp_rows", None, [one, other], (0.7, 0.3)).double(), rows, atol=1e-6)
    by_column = merged("nuslerp_rows", None, [one, other], (0.7, 0.3), along="columns")
    assert torch.allclose(by_column.double(), columns, atol=1e-6)


def test_arcs_by_rows_of_one_row_are_the_arc_of_the_tensor() -> None:
    for shape in ((1, 50), (50,)):
        tuned = drawn(2, shape)
        flat = merged("nuslerp", None, tuned, (0.7, 0.3))
        assert torch.allclose(merged("nuslerp_rows", None, tuned, (0.7, 0.3)), flat, atol=1e-6)


def test_rows_that_only_one_model_has_are_interpolated() -> None:
    one, other = drawn(2)
    one[2] = 0
    assert torch.allclose(merged("nuslerp_rows", None, [one, other], (0.25, 0.75))[2], 0.75 * other[2], atol=1e-6)


@given(st.floats(0, 1), st.integers(0, 20))
def test_karcher_of_two_unit_vectors_is_slerp(t: float, seed: int) -> None:
    one, other = (vector / vector.norm() for vector in drawn(2, (20,), seed))
    found = merged("karcher", None, [one, other], (1 - t, t))
    assert torch.allclose(found.double(), arc(one, other, t), atol=1e-6)


def test_karcher_of_two_vectors_is_slerp_of_their_directions_at_the_mean_length() -> None:
    one, other = drawn(2)[0], 5 * drawn(2)[1]
    expected = arc(one / one.norm(), other / other.norm(), 0.3) * (0.7 * one.norm() + 0.3 * other.norm())
    assert torch.allclose(merged("karcher", None, [one, other], (0.7, 0.3)).double(), expected.double(), atol=1e-5)
    assert not torch.allclose(expected, arc(one, other, 0.3), atol=0.1)  # SLERP bends the lengths another way


@pytest.mark.parametrize("row", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.5, 0.2, 0.9), (1.0, 0.0, 0.0, 0.1)])
def test_at_the_karcher_mean_the_weighted_logarithms_cancel(row: tuple[float, ...]) -> None:
    tuned = [one.double() + 1.0 for one in drawn(4, (30,))]
    weights = METHODS["karcher"].law(gram(tuned), at("karcher", row))  # type: ignore[misc]
    mean = sum(weight * one for weight, one in zip(weights, tuned, strict=True))
    assert mean.norm().item() == pytest.approx(sum(w / sum(row) * one.norm().item() for w, one in zip(row, tuned)))  # noqa: B905
    unit, pull = mean / mean.norm(), torch.zeros(30, dtype=torch.float64)
    for weight, one in zip(row, tuned, strict=True):
        other = one / one.norm()
        cosine = (other @ unit).clamp(-1, 1)
        pull += weight * cosine.acos() / (1 - cosine**2).sqrt() * (other - cosine * unit)
    assert pull.norm() < 1e-6


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=5), st.integers(0, 50))
def test_karcher_finds_a_mean_of_models_however_far_apart(row: list[float], seed: int) -> None:
    tuned = drawn(len(row), (6,), seed)
    assert merged("karcher", None, tuned, row).isfinite().all()


def test_multislerp_is_the_mean_direction_at_the_mean_length() -> None:
    tuned, row = drawn(3), (0.2, 0.5, 0.3)
    direction = sum(w * one / one.norm() for w, one in zip(row, tuned, strict=True))
    length = sum(w * one.norm() for w, one in zip(row, tuned, strict=True))
    expected = direction / direction.norm() * length
    assert torch.allclose(merged("multislerp", None, tuned, row), expected, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_model_stock_of_equal_experts_is_their_average_and_of_orthogonal_ones_the_base(count: int) -> None:
    base, step = drawn(2)
    same = merged("model_stock", base, [base + step] * count, (1.0,) * count)
    assert torch.allclose(same, base + step, atol=1e-5)
    ends = torch.eye(8)[:count]
    assert torch.allclose(merged("model_stock", torch.zeros(8), list(ends), (1.0,) * count), torch.zeros(8), atol=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_model_stock_lies_between_base_and_average_by_the_papers_ratio(count: int) -> None:
    base, common, *own = drawn(2 + count, (40,))
    tuned = [base + common + one for one in own]
    steps = [(one - base).double() for one in tuned]
    pairs = [(i, j) for i in range(count) for j in range(i)]
    cosine = sum((steps[i] @ steps[j] / steps[i].norm() / steps[j].norm()).item() for i, j in pairs) / len(pairs)
    t = count * cosine / (1 + (count - 1) * cosine)
    average = sum(one.double() for one in tuned) / count
    expected = t * average + (1 - t) * base.double()
    assert torch.allclose(merged("model_stock", base, tuned, (1.0,) * count).double(), expected, atol=1e-5)
    half = base.double() + 0.5 * (expected - base.double())
    assert torch.allclose(merged("model_stock", base, tuned, (0.5,) * count).double(), half, atol=1e-5)


def test_model_stock_by_rows_is_model_stock_of_each_row() -> None:
    base, *tuned = drawn(4)
    found = merged("model_stock", base, tuned, (1.0,) * 3, scope="row")
    for row in range(6):
        alone = merged("model_stock", base[row], [one[row] for one in tuned], (1.0,) * 3)
        assert torch.allclose(found[row], alone, atol=1e-5)


def test_task_vectors_that_cancel_leave_the_base_with_model_stock() -> None:
    base, step = drawn(2)
    for scope in ("tensor", "row"):
        assert torch.allclose(
            merged("model_stock", base, [base + step, base - step], (1, 1), scope=scope), base, atol=1e-6
        )


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_task_vectors_of_one_length_have_equal_shares(scope: str) -> None:
    base, one, other = drawn(3)
    other = other * one.norm() / other.norm()
    lengths = (2.0, 2.0) if scope == "model" else None
    for method in ("metagpt", "nan"):
        found = merged(method, base, [base + one, base + other], (1.0, 1.0), survey=lengths, scope=scope)
        assert torch.allclose(found, base + (one + other) / 2, atol=1e-5)


def test_metagpt_weighs_by_squared_length_and_nan_by_inverse_length() -> None:
    zero, tuned = torch.zeros(2), [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])]
    metagpt = merged("metagpt", zero, tuned, (1.0, 1.0), scope="tensor")
    assert metagpt.tolist() == pytest.approx([3 * 0.9, 1 * 0.1])
    nan = merged("nan", zero, tuned, (1.0, 1.0), scope="tensor")
    assert nan.tolist() == pytest.approx([3 * 0.25, 1 * 0.75])
    whole = merged("nan", zero, tuned, (1.0, 1.0), survey=(1.0, 9.0))  # the lengths of the whole models decide
    assert whole.tolist() == pytest.approx([3 * 0.75, 1 * 0.25])


def test_with_nan_a_longer_task_vector_does_not_count_more() -> None:
    zero = torch.zeros(2)
    one, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0])
    added = [merged("nan", zero, [one * size, other], (1.0, 1.0), scope="tensor") for size in (1, 10, 100)]
    assert all(found[0].item() == pytest.approx(found[1].item()) for found in added)


def test_lines_scales_by_depth_and_outside_of_the_layers_by_alpha() -> None:
    base, *tuned = drawn(3)
    total = sum(one - base for one in tuned)
    for depth, factor in ((0.0, 0.2), (0.5, 0.7), (1.0, 1.2), (None, 0.2)):
        found = merged("lines", base, tuned, (1.0, 1.0), depth=depth, alpha=0.2, beta=1.0)
        assert torch.allclose(found, base + factor * total, atol=1e-5)


def test_lines_without_a_slope_is_task_arithmetic_by_default_the_average() -> None:
    base, *tuned = drawn(3)
    scaled = merged("lines", base, tuned, (0.4, 0.9), depth=0.7, alpha=0.5, beta=0)
    assert torch.allclose(scaled, merged("task_arithmetic", base, tuned, (0.2, 0.45)), atol=1e-6)
    average = merged("lines", base, tuned, (1, 1), depth=0.7, beta=0)
    assert torch.allclose(average, sum(tuned) / 2, atol=1e-6)  # type: ignore[arg-type]


def test_a_search_finds_what_these_methods_leave_open() -> None:
    assert searchable(METHODS["lines"].structure) == {"alpha": Range(0, 0.6), "beta": Range(0, 1.5)}
    assert set(searchable(METHODS["model_stock"].structure)) == {"scope"}
    assert searchable(METHODS["nuslerp_rows"].structure)["along"].options == ("rows", "columns")  # type: ignore[union-attr]
