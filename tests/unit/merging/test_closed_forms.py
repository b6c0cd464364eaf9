"""Isotropic, RegMean and Fisher merging against their papers: closed forms and invariants."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from merging.errors import MergeError
from merging.methods import METHODS, At
from merging.methods.fisher import fisher_average
from merging.methods.isotropic import flattened
from merging.methods.method import NoStructure
from merging.methods.regmean import regmean

SHAPES = [(12, 12), (9, 16), (16, 9), (1, 7), (7, 1)]


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def gram_of(inputs: int, seed: int, rows: int = 50) -> Tensor:
    """The mean of x x^T over inputs that depend on one another, float32."""
    x = drawn(rows, inputs, seed=seed) @ drawn(inputs, inputs, seed=seed + 100)
    return x.T @ x / rows


# ---- iso_c


def iso(*task_vectors: Tensor, row: tuple[float, ...] | None = None) -> Tensor:
    base = drawn(*task_vectors[0].shape, seed=99)
    names = tuple("abcdefgh"[: len(task_vectors)])
    at = At("layers.0.mlp.weight", names, row or (1.0,) * len(names), NoStructure())
    return METHODS["iso_c"].merge(base, [base + one for one in task_vectors], at) - base


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_flattened_matrix_keeps_its_directions_and_has_the_mean_strength_in_each(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape)
    left, strengths, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    expected = strengths.mean() * left @ right
    assert torch.allclose(flattened(matrix).double(), expected, atol=1e-6)


def test_iso_c_flattens_the_sum_of_a_matrix_and_averages_what_is_none() -> None:
    one, other = drawn(8, 6, seed=1), drawn(8, 6, seed=2)
    assert torch.allclose(iso(one, other), flattened(one + other), atol=1e-5)
    assert torch.allclose(iso(one[0], other[0]), (one[0] + other[0]) / 2, atol=1e-6)
    strengths = torch.linalg.svdvals(iso(one, other))
    assert torch.allclose(strengths, torch.linalg.svdvals(one + other).mean().expand(6), atol=1e-4)


def test_the_coefficient_of_iso_c_scales_its_task_vector() -> None:
    one, other = drawn(8, 6, seed=1), drawn(8, 6, seed=2)
    assert torch.allclose(iso(one, other, row=(0.4, 0.4)), 0.4 * iso(one, other), atol=1e-6)


def test_a_matrix_of_low_rank_stays_one() -> None:
    low = drawn(20, 3, seed=1) @ drawn(3, 15, seed=2)
    found = torch.linalg.svdvals(flattened(low).double())
    mean = torch.linalg.svdvals(low)[:3].mean().item()
    assert found[:3].tolist() == pytest.approx([mean] * 3, rel=1e-5)
    assert found[3].item() < 1e-5
    assert torch.equal(flattened(torch.zeros(4, 3)), torch.zeros(4, 3))


def test_iso_c_of_broken_weights_is_not_finite_rather_than_a_failure_of_the_decomposition() -> None:
    broken = drawn(4, 3)
    broken[1, 2] = torch.inf
    assert not iso(broken, drawn(4, 3, seed=1)).isfinite().any()


def test_iso_c_turns_with_the_outputs_of_a_layer() -> None:
    one, other = drawn(8, 6, seed=1), drawn(8, 6, seed=2)
    turn = torch.linalg.qr(drawn(8, 8, seed=3)).Q
    assert torch.allclose(iso(turn @ one, turn @ other), turn @ iso(one, other), atol=1e-5)


def test_a_model_without_weight_in_iso_c_does_not_count() -> None:
    one, other = drawn(8, 6, seed=1), drawn(8, 6, seed=2)
    base = drawn(8, 6, seed=9)
    at = At("layers.0.mlp.weight", ("a", "b"), (0.7, 0.0), NoStructure())
    merged = METHODS["iso_c"].merge(base, [base + one, base + other], at)
    alone = METHODS["iso_c"].merge(base, [base + one], replace(at, experts=("a",), row=(0.7,)))
    assert torch.allclose(merged, alone, atol=1e-6)


# ---- RegMean


def test_regmean_of_one_expert_is_that_expert_bit_by_bit() -> None:
    weight = drawn(5, 6)
    assert torch.equal(regmean([weight], [gram_of(6, 1)]), weight)
    assert torch.equal(regmean([weight, weight], [gram_of(6, 1), gram_of(6, 2)]), weight)


def test_regmean_with_equal_gram_matrices_is_the_average() -> None:
    weights, gram = [drawn(5, 6, seed=seed) for seed in range(3)], gram_of(6, 1)
    assert torch.allclose(regmean(weights, [gram] * 3), sum(weights[1:], weights[0]) / 3, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.9, 0.0])
def test_regmean_is_the_closed_form_of_its_paper(alpha: float) -> None:
    weights = [drawn(5, 6, seed=seed).double() for seed in range(3)]
    grams = [gram_of(6, seed).double() for seed in range(3)]
    shrunk = [alpha * gram + (1 - alpha) * gram.diagonal().diag() for gram in grams]
    top = sum(weight @ gram for weight, gram in zip(weights, shrunk, strict=True))
    expected = top @ torch.linalg.inv(sum(shrunk[1:], shrunk[0]))
    assert torch.allclose(regmean(weights, grams, alpha, ridge=0).double(), expected, atol=1e-5)


def test_regmean_without_shrinking_leaves_less_error_on_the_experts_inputs_than_anything_near() -> None:
    weights, grams = [drawn(5, 6, seed=seed) for seed in range(2)], [gram_of(6, seed) for seed in range(2)]

    def error(merged: Tensor) -> float:
        gaps = [(merged - weight, gram) for weight, gram in zip(weights, grams, strict=True)]
        return sum(float(((gap @ gram) * gap).sum()) for gap, gram in gaps)

    best = regmean(weights, grams, alpha=1.0, ridge=0)
    assert error(best) < error((weights[0] + weights[1]) / 2)
    for seed in range(20):
        assert error(best) < error(best + drawn(5, 6, seed=seed, scale=0.01))


def test_an_input_that_only_one_expert_has_follows_that_expert_and_one_that_none_has_is_averaged() -> None:
    weights = [drawn(5, 3, seed=seed) for seed in range(2)]
    grams = [torch.diag(torch.tensor([2.0, 0.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0, 0.0]))]
    merged = regmean(weights, grams)
    assert torch.allclose(merged[:, 0], weights[0][:, 0], atol=1e-5)
    assert torch.allclose(merged[:, 1], weights[1][:, 1], atol=1e-5)
    assert torch.allclose(merged[:, 2], (weights[0] + weights[1])[:, 2] / 2, atol=1e-6)


def test_regmean_does_not_depend_on_the_order_of_the_experts_or_on_a_common_scale_of_their_inputs() -> None:
    weights, grams = [drawn(5, 6, seed=seed) for seed in range(3)], [gram_of(6, seed) for seed in range(3)]
    merged = regmean(weights, grams)
    assert torch.allclose(regmean(weights[::-1], grams[::-1]), merged, atol=1e-5)
    assert torch.allclose(regmean(weights, [50 * gram for gram in grams]), merged, atol=1e-4)


def test_gram_matrices_without_an_inverse_are_refused_and_say_what_to_do() -> None:
    weights = [drawn(5, 3, seed=seed) for seed in range(2)]
    with pytest.raises(MergeError, match="more calibration examples"):
        regmean(weights, [torch.zeros(3, 3)] * 2)


def test_a_head_of_many_rows_is_merged_as_one_of_few() -> None:
    weights, grams = [drawn(9000, 4, seed=seed) for seed in range(2)], [gram_of(4, seed) for seed in range(2)]
    merged = regmean(weights, grams)
    assert torch.allclose(merged[8000:8003], regmean([one[8000:8003] for one in weights], grams), atol=1e-6)


# ---- Fisher


def test_fisher_of_one_expert_is_that_expert_and_equal_fishers_give_the_average() -> None:
    weights, fisher = [drawn(5, 6, seed=seed) for seed in range(3)], drawn(5, 6, seed=9).square()
    assert torch.equal(fisher_average(weights[:1], [fisher]), weights[0])
    assert torch.allclose(fisher_average(weights, [fisher] * 3), sum(weights[1:], weights[0]) / 3, atol=1e-6)


def test_an_entry_is_weighted_by_its_fisher_and_averaged_where_no_loss_depends_on_it() -> None:
    merged = fisher_average(
        [torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([5.0, 5.0, 5.0, 5.0])],
        [torch.tensor([3.0, 1e-30, 0.0, 0.0]), torch.tensor([1.0, 3e-30, 0.0, 2e-20])],
    )
    assert merged.tolist() == pytest.approx([2.0, 4.0, 3.0, 5.0])


def test_neither_closed_form_writes_to_what_it_is_given() -> None:
    weights, grams = [drawn(5, 6, seed=seed) for seed in range(2)], [gram_of(6, seed) for seed in range(2)]
    fishers = [weight.square() for weight in weights]
    given = [*weights, *grams, *fishers]
    before = [one.clone() for one in given]
    regmean(weights, [gram.double() for gram in grams])
    regmean(weights, grams).fill_(0)
    regmean(weights[:1], grams[:1]).fill_(0)
    fisher_average(weights, fishers).fill_(0)
    flattened(weights[0]).fill_(0)
    flattened(weights[0].T).fill_(0)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


def test_a_weight_of_two_counts_as_two_such_experts_and_one_of_zero_as_none() -> None:
    one, other = drawn(5, 6), drawn(5, 6, seed=1)
    grams, fishers = [gram_of(6, 1), gram_of(6, 2)], [drawn(5, 6, seed=3).square(), drawn(5, 6, seed=4).square()]
    twice = regmean([one, one, other], [grams[0], grams[0], grams[1]])
    assert torch.allclose(regmean([one, other], grams, row=(2.0, 1.0)), twice, atol=1e-6)
    assert torch.equal(regmean([one, other], grams, row=(0.0, 1.0)), other)
    twice = fisher_average([one, one, other], [fishers[0], fishers[0], fishers[1]])
    assert torch.allclose(fisher_average([one, other], fishers, (2.0, 1.0)), twice, atol=1e-6)
    assert torch.equal(fisher_average([one, other], fishers, (0.0, 1.0)), other)
