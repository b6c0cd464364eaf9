"""Methods that take matrices apart, against decompositions written out by the letter of their papers."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from merging.methods import METHODS, At
from merging.methods.searchable import searchable
from merging.methods.shared_basis import agreeing_parts
from merging.methods.spectra import common_left, polar, singular

MATRIX_METHODS = ("tsv", "iso_cts", "knots", "drm", "wudi")
SHAPES = [(12, 9), (9, 12), (10, 10), (40, 6)]


def drawn(count: int, shape: Sequence[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def task_vector(method: str, vectors: Sequence[Tensor], row: Sequence[float] | None = None, **settings: Any) -> Tensor:
    """The merge on a base of zeros, weights of one by default."""
    structure = METHODS[method].structure.model_validate(settings)
    weights = tuple(row) if row is not None else (1.0,) * len(vectors)
    place = At("tensor", tuple("abcdefgh"[: len(vectors)]), weights, structure, 3)
    return METHODS[method].merge(torch.zeros_like(vectors[0]), vectors, place)


def rotation(size: int, seed: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    turn: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return turn.float()


def by_svd(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    factor: Tensor = left @ right
    return factor


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_take_a_matrix_apart_and_are_orthonormal(shape: tuple[int, int]) -> None:
    matrix = drawn(1, shape)[0].double()
    left, strengths, right = singular(matrix)
    assert torch.allclose((left * strengths) @ right.T, matrix, atol=1e-12)
    assert torch.allclose(strengths, torch.linalg.svdvals(matrix), atol=1e-12)
    for one in (left, right):
        assert torch.allclose(one.T @ one, torch.eye(min(shape)).double(), atol=1e-10)
    assert torch.allclose(singular(matrix, 2)[1], strengths[:2])


def test_a_matrix_of_low_rank_has_no_more_singular_vectors_than_that() -> None:
    tall, wide = drawn(2, (20, 3))
    left, strengths, right = singular((tall @ wide.T).double())
    assert left.shape == right.shape == (20, 3)
    assert (strengths > 0.1).all()
    assert singular(torch.zeros(4, 5).double())[1].shape == (0,)


def test_singular_vectors_keep_their_stated_precision() -> None:
    left, right = rotation(30).double(), rotation(30, 4).double()
    matrix = (left * torch.logspace(0, -4, 30).double()) @ right.T
    found = singular(matrix)[0]
    assert torch.allclose(found.T @ found, torch.eye(30).double(), atol=1e-7)  # float32 has 6e-8


@pytest.mark.parametrize("shape", [(12, 9), (10, 10)])
def test_the_polar_factor_is_that_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    matrix = drawn(1, shape)[0].double()
    assert torch.allclose(polar(matrix), by_svd(matrix), atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_common_left_vectors_span_all_matrices(shape: tuple[int, int]) -> None:
    matrices = [one.double() for one in drawn(3, shape)]
    basis = common_left(matrices)
    for matrix in matrices:
        assert torch.allclose(basis @ (basis.T @ matrix), matrix, atol=1e-10)
    reference = torch.linalg.svd(torch.cat(matrices, 1), full_matrices=False)
    assert torch.allclose((reference.U.T @ basis).abs(), torch.eye(basis.shape[1]).double(), atol=1e-8)


@pytest.mark.parametrize("method", MATRIX_METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_longer_task_vectors_move_the_merge_as_much_further(method: str, shape: tuple[int, int]) -> None:
    vectors = drawn(3, shape)
    straight = task_vector(method, vectors)
    assert torch.allclose(task_vector(method, [3 * one for one in vectors]), 3 * straight, atol=1e-4)


@pytest.mark.parametrize("method", ["tsv", "iso_cts", "wudi"])
def test_turning_outputs_and_inputs_turns_the_merge(method: str) -> None:
    vectors, left, right = drawn(2, (12, 9)), rotation(12), rotation(9)
    turned = task_vector(method, [left @ one @ right for one in vectors])
    assert torch.allclose(turned, left @ task_vector(method, vectors) @ right, atol=1e-4)


@pytest.mark.parametrize("method", ["knots", "drm"])
def test_turning_the_outputs_turns_a_merge_in_the_shared_basis(method: str) -> None:
    vectors, left = drawn(2, (12, 9)), rotation(12)
    turned = task_vector(method, [left @ one for one in vectors])
    assert torch.allclose(turned, left @ task_vector(method, vectors), atol=1e-4)


@pytest.mark.parametrize("method", MATRIX_METHODS)
def test_an_expert_equal_to_the_base_is_no_obstacle(method: str) -> None:
    vector, nothing = drawn(1, (12, 9))[0], torch.zeros(12, 9)
    assert task_vector(method, [vector, nothing]).isfinite().all()
    assert torch.equal(task_vector(method, [nothing, nothing]), nothing)


@pytest.mark.parametrize("method", MATRIX_METHODS)
@pytest.mark.parametrize("shape", [(12, 9), (9,)])
def test_entries_that_are_not_finite_stay_so(method: str, shape: tuple[int, ...]) -> None:
    vectors = drawn(2, shape)
    vectors[1].view(-1)[4] = torch.inf
    assert not task_vector(method, vectors).isfinite().all()


@pytest.mark.parametrize("method", ["tsv", "iso_cts", "wudi"])
def test_bias_and_norms_are_averaged(method: str) -> None:
    one, other = drawn(2, (9,))
    assert torch.allclose(task_vector(method, [one, other]), (one + other) / 2)
    assert torch.allclose(task_vector(method, [one, other], (1.0, 0.0)), one / 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_tsv_is_the_papers(shape: tuple[int, int]) -> None:
    vectors = [one.double() for one in drawn(3, shape)]
    kept = min(shape) // 3
    found = [torch.linalg.svd(one, full_matrices=False) for one in vectors]
    left = by_svd(torch.cat([one.U[:, :kept] for one in found], 1))
    right = by_svd(torch.cat([one.Vh[:kept] for one in found], 0))
    expected = left @ torch.diag(torch.cat([one.S[:kept] for one in found])) @ right
    assert torch.allclose(task_vector("tsv", [one.float() for one in vectors]).double(), expected, atol=1e-5)


def test_tsv_of_one_expert_is_its_task_vector_and_of_orthogonal_experts_their_sum() -> None:
    (vector,) = drawn(1, (12, 9))
    assert torch.allclose(task_vector("tsv", [vector]), vector, atol=1e-5)
    one, other = torch.zeros(12, 10), torch.zeros(12, 10)
    one[:5, :5], other[5:10, 5:] = drawn(1, (5, 5))[0], drawn(1, (5, 5), 1)[0]
    assert torch.allclose(task_vector("tsv", [one, other]), one + other, atol=1e-5)


def test_tsv_of_two_equal_experts_is_that_expert_cut_to_the_rank_it_keeps() -> None:
    (vector,) = drawn(1, (12, 10))
    left, strengths, right = torch.linalg.svd(vector, full_matrices=False)
    expected = (left[:, :5] * strengths[:5]) @ right[:5]
    assert torch.allclose(task_vector("tsv", [vector, vector]), expected, atol=1e-5)


def test_iso_cts_is_the_papers() -> None:
    vectors = [one.double() for one in drawn(2, (14, 10))]
    common, own = 8, 1  # 0.8 of 10, the rest shared out
    total = torch.linalg.svd(vectors[0] + vectors[1], full_matrices=False)
    shared = total.U[:, :common]
    found = [torch.linalg.svd(one - shared @ shared.T @ one, full_matrices=False) for one in vectors]
    left = by_svd(torch.cat([*(one.U[:, :own] for one in found), shared], 1))
    right = by_svd(torch.cat([*(one.Vh[:own] for one in found), total.Vh[:common]], 0))
    strength = torch.cat([*(one.S[:own] for one in found), total.S[:common]]).mean()
    merged = task_vector("iso_cts", [one.float() for one in vectors])
    assert torch.allclose(merged.double(), strength * left @ right, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_iso_cts_with_all_in_common_is_iso_c(shape: tuple[int, int]) -> None:
    vectors = drawn(3, shape)
    iso_c = task_vector("iso_c", vectors, (0.7,) * 3)
    assert torch.allclose(task_vector("iso_cts", vectors, (0.7,) * 3, fraction=1), iso_c, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.8, 1.0])
def test_iso_cts_has_singular_values_of_one_size(fraction: float) -> None:
    strengths = torch.linalg.svdvals(task_vector("iso_cts", drawn(3, (14, 11)), fraction=fraction))
    assert torch.allclose(strengths, strengths.mean().expand(11), rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_knots_is_ties_in_the_shared_basis(shape: tuple[int, int], density: float) -> None:
    vectors = drawn(3, shape)
    stacked = torch.linalg.svd(torch.cat(vectors, 1).double(), full_matrices=False)
    inside = [(stacked.U.T @ one.double()).float() for one in vectors]
    ties = task_vector("ties", inside, density=density, scope="tensor")
    expected = stacked.U @ ties.double()
    assert torch.allclose(task_vector("knots", vectors, density=density).double(), expected, atol=1e-5)
    plain = task_vector("ties", vectors, density=density, scope="tensor")
    assert not torch.allclose(expected.float(), plain, atol=1e-2)


def test_adding_up_in_the_shared_basis_is_task_arithmetic() -> None:
    vectors = [one.double() for one in drawn(3, (12, 9))]
    basis = common_left(vectors)
    added = basis @ sum(basis.T @ one for one in vectors)
    assert torch.allclose(added, sum(vectors), atol=1e-10)  # type: ignore[arg-type]


def test_knots_with_dare_drops_by_the_recipes_seed() -> None:
    vectors = drawn(2, (30, 20))
    first = task_vector("knots", vectors, inner="dare_ties", density=0.5)
    assert torch.equal(first, task_vector("knots", vectors, inner="dare_ties", density=0.5))
    assert not torch.allclose(first, task_vector("knots", vectors, density=0.5))
    everything = task_vector("knots", vectors, inner="dare_ties", density=1)
    assert torch.allclose(everything, task_vector("knots", vectors, density=1))


def drm_by_the_letter(vectors: Sequence[Tensor], density: float) -> Tensor:
    stacked = torch.linalg.svd(torch.cat(list(vectors), 1).double(), full_matrices=False)
    rank = int((stacked.S / stacked.S[0] > 1e-2).sum())
    rights = torch.stack(stacked.Vh[:rank].split(vectors[0].shape[1], 1))
    norms = rights.norm(dim=2, keepdim=True)
    rights, strengths = rights / norms, stacked.S[:rank, None] * norms
    threshold = rights.abs().flatten().sort(descending=True).values[round(density * rights.numel()) - 1]
    kept = strengths * rights * (rights.abs() >= threshold)
    agreeing = kept * (kept.sign() == kept.sum(0).sign())
    merged: Tensor = stacked.U[:, :rank] @ (agreeing.sum(0) / agreeing.ne(0).sum(0).clamp(min=1))
    return merged


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [1.0, 0.2])
def test_drm_is_the_papers_in_both_directions(shape: tuple[int, int], density: float) -> None:
    vectors = drawn(3, shape)
    across = task_vector("drm", vectors, density=density)
    assert torch.allclose(across.double(), drm_by_the_letter(vectors, density), atol=1e-5)
    down = task_vector("drm", vectors, density=density, stack="vertical")
    assert torch.allclose(down.double(), drm_by_the_letter([one.T for one in vectors], density).T, atol=1e-5)


def test_drm_leaves_out_directions_below_a_hundredth_of_the_strongest() -> None:
    left, right = rotation(8), rotation(8, 4)
    strengths = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.009, 0.001])
    cut = torch.where(strengths > 0.01, strengths, 0)
    merged = task_vector("drm", [(left * strengths) @ right], density=1)
    assert torch.allclose(merged, (left * cut) @ right, atol=1e-6)


def test_the_parts_of_an_election_add_up_to_the_mean_of_those_that_agree() -> None:
    one, other, third = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([-1.0, -1.0, 0.0]), torch.tensor([5.0, 0.0, 2.0])
    parts = agreeing_parts([one, other, third])
    assert [part.tolist() for part in parts] == [[1.5, 0.0, 0.0], [0.0, 0.0, 0.0], [2.5, 0.0, 2.0]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ridge", [1e-3, 1.0, 100.0])
def test_wudi_is_where_its_loss_is_flat(shape: tuple[int, int], ridge: float) -> None:
    vectors = [one.double() for one in drawn(3, shape)]
    found = task_vector("wudi", [one.float() for one in vectors], ridge=ridge).double().requires_grad_()
    held = ridge * len(vectors) / shape[1]  # the mean of the diagonal: each G_i has trace 1
    loss = held * (found - sum(vectors)).square().sum()
    for one in vectors:
        loss = loss + ((found - one) @ one.T).square().sum() / one.square().sum()
    (slope,) = torch.autograd.grad(loss, found)
    assert slope.norm() < 2e-5 * (1 + held)


def test_wudi_leaves_the_sum_of_experts_that_read_disjoint_inputs() -> None:
    one, other = torch.zeros(12, 10), torch.zeros(12, 10)
    one[:, :5], other[:, 5:] = drawn(1, (12, 5))[0], drawn(1, (12, 5), 1)[0]
    assert torch.allclose(task_vector("wudi", [one, other]), one + other, atol=1e-5)
    (vector,) = drawn(1, (12, 9))
    assert torch.allclose(task_vector("wudi", [vector]), vector, atol=1e-5)


def test_a_strong_ridge_holds_wudi_at_the_sum() -> None:
    vectors = drawn(3, (12, 9))
    assert torch.allclose(task_vector("wudi", vectors, ridge=1e6), sum(vectors), atol=1e-3)  # type: ignore[arg-type]
    assert not torch.allclose(task_vector("wudi", vectors), sum(vectors), atol=0.1)  # type: ignore[arg-type]


def test_a_search_finds_what_these_methods_leave_open() -> None:
    settings = {method: set(searchable(METHODS[method].structure)) for method in MATRIX_METHODS}
    assert settings == {
        "tsv": {"rank"},
        "iso_cts": {"fraction"},
        "knots": {"inner", "density"},
        "drm": {"stack", "density"},
        "wudi": {"ridge"},
    }
