"""Random masks: unbiased, with the variance of their law, and the same in whatever pieces they are drawn."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from merging.methods import METHODS, At
from merging.methods.della import Della, DellaLinear
from merging.methods.draws import BLOCK, STEPS, draws, kept, met
from merging.methods.method import NoStructure


def place(method: str = "dare_linear", seed: int = 0, experts: int = 1, **settings: Any) -> At[Any]:
    structure = METHODS[method].structure.model_validate(settings)
    return At("tensor", tuple("abcdefgh"[:experts]), (1.0,) * experts, structure, seed)


def test_draws_are_even_and_independent() -> None:
    count = 1 << 20
    numbers = draws(place(), 0, count)
    assert numbers.min() >= 0
    assert numbers.max() < STEPS
    assert torch.equal(numbers, numbers.round())
    shares = torch.bincount((numbers / STEPS * 64).long(), minlength=64) / count
    assert (shares - 1 / 64).abs().max() < 5 * math.sqrt(1 / 64 / count)
    uniform = numbers / STEPS - 0.5
    for lag in (1, 2, 4, 2048, BLOCK):
        correlation = float((uniform[lag:] * uniform[:-lag]).mean() * 12)
        assert abs(correlation) < 5 / math.sqrt(count - lag)


def test_a_slice_has_the_draws_of_the_whole() -> None:
    whole = draws(place(), 0, 3 * BLOCK)
    for start, count in ((0, 7), (5, 2), (BLOCK - 3, 10), (12_345, 2 * BLOCK + 1), (2 * BLOCK, BLOCK)):
        here = replace(place(), start=start)
        assert torch.equal(draws(here, 0, count), whole[start : start + count])


def test_slices_that_meet_inside_of_a_block_have_the_draws_of_the_whole() -> None:
    whole = [draws(place(experts=3), expert, 4 * BLOCK) for expert in range(3)]
    for length in (BLOCK - 1232, BLOCK // 2 + 1, 3 * BLOCK // 2 + 3):
        for start in range(0, 4 * BLOCK, length):
            for expert in range(3):
                drawn = draws(replace(place(experts=3), start=start), expert, min(length, 4 * BLOCK - start))
                assert torch.equal(drawn, whole[expert][start : start + length])


def test_draws_stay_what_they_are() -> None:
    """A recipe's seed means these masks, on every machine and in every version; a change here is a change for users."""
    at = At("model.norm.weight", ("math", "code"), (1.0, 1.0), NoStructure(), 7)
    assert draws(at, 0, 6).int().tolist() == [19180, 34770, 37233, 46300, 37210, 12205]
    assert draws(replace(at, start=BLOCK), 1, 3).int().tolist() == [3329, 12234, 27112]


@pytest.mark.parametrize("chance", [1e-9, 0.1, 0.5, 0.99])
def test_an_entry_is_kept_as_often_as_it_is_divided_by(chance: float) -> None:
    count = 1 << 20
    share = kept(place(), 0, count, chance).mean().item()
    assert met(chance) == pytest.approx(chance, abs=1 / STEPS)
    assert share == pytest.approx(met(chance), abs=5 * math.sqrt(met(chance) * (1 - met(chance)) / count))


@pytest.mark.parametrize("density", [0.1, 0.5])
@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_the_mean_over_seeds_is_the_task_vector_with_the_variance_of_the_law(method: str, density: float) -> None:
    shape, seeds = (40, 250), 100
    generator = torch.Generator().manual_seed(1)
    vector = torch.randn(shape, generator=generator)
    settings: dict[str, Any] = (
        {"density": density, "epsilon": 0.0} if method == "della_linear" else {"density": density}
    )
    total = torch.zeros(shape)
    for seed in range(seeds):
        at = place(method=method, seed=seed, **settings)
        total += METHODS[method].merge(torch.zeros(shape), [vector], at)
    ratio = total / seeds / vector
    deviation = math.sqrt((1 - density) / density / seeds)
    assert ratio.mean().item() == pytest.approx(1, abs=5 * deviation / 100)
    assert ratio.std().item() == pytest.approx(deviation, rel=0.05)


def exact_chances(rows: Tensor, low: float, width: float) -> Tensor:
    ranks = rows.abs().argsort(1).argsort(1).float()
    return low + width * ranks / (rows.shape[1] - 1)


def test_della_ranks_are_within_the_stated_bound_of_a_sort() -> None:
    from merging.methods.della import _chances

    rows = torch.randn(60, 2000, generator=torch.Generator().manual_seed(2)) * torch.logspace(-6, 3, 60).unsqueeze(1)
    chances = _chances(rows.abs(), 0.3 * STEPS, 0.4 * STEPS) / STEPS
    assert (chances - exact_chances(rows, 0.3, 0.4)).abs().max() < 0.013 * 0.4
    assert (chances.mean(1) - 0.5).abs().max() < 1 / STEPS


def test_della_gives_equal_magnitudes_equal_chances() -> None:
    from merging.methods.della import _chances

    rows = torch.tensor([[0.0, 1.0, -1.0, 1.0, 2.0, 0.0], [3.0, 3.0, 3.0, -3.0, 3.0, 3.0]])
    chances = _chances(rows.abs(), 0.1 * STEPS, 0.5 * STEPS) / STEPS
    # ranks 0 and 1 are the zeros', 2 to 4 the ones', 5 the two's
    assert chances[0].tolist() == pytest.approx([0.15, 0.4, 0.4, 0.4, 0.6, 0.15], abs=1e-4)
    assert chances[1].tolist() == pytest.approx([0.35] * 6, abs=1e-4)


def test_della_without_election_is_unbiased_at_every_rank() -> None:
    vector = torch.linspace(0.1, 10, 50).repeat(40, 1)
    mean = torch.zeros(40, 50)
    for seed in range(150):
        at = place(method="della_linear", seed=seed, density=0.5, epsilon=0.8)
        mean += METHODS["della_linear"].merge(torch.zeros(40, 50), [vector], at) / 150
    ratio = (mean / vector).mean(0)
    assert ratio[:5].mean().item() == pytest.approx(1, abs=0.06)
    assert ratio[-5:].mean().item() == pytest.approx(1, abs=0.02)


def test_a_window_is_the_whole_of_it_or_half_of_it_as_mergekit_counts() -> None:
    assert Della(density=0.5, epsilon=0.2).windows(1)[0] == pytest.approx((0.4, 0.2))
    assert Della(density=0.5, epsilon=0.2, compat="mergekit").windows(1)[0] == pytest.approx((0.3, 0.4))
    assert DellaLinear(density=1.0, epsilon=0.1, compat="mergekit").windows(1) == [(1.0, 0.0)]
    with pytest.raises(ValueError, match=r"epsilon can be at most 0\.1"):
        Della(density=0.9, epsilon=0.2, compat="mergekit")


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_a_matched_norm_has_the_sum_of_magnitudes_it_had(method: str) -> None:
    generator = torch.Generator().manual_seed(3)
    vector = torch.randn(300, 500, generator=generator)
    settings: dict[str, Any] = {"density": 0.3} if method == "dare_linear" else {"density": 0.3, "epsilon": 0.1}
    (direction,) = METHODS[method].directions(
        torch.zeros(300, 500), [vector], place(method=method, rescale="norm", **settings)
    )
    assert direction.abs().sum().item() == pytest.approx(vector.abs().sum().item(), rel=1e-4)
    (left,) = METHODS[method].directions(
        torch.zeros(300, 500), [vector], place(method=method, rescale="none", **settings)
    )
    assert torch.equal(left[left != 0], vector[left != 0])
    assert torch.equal(left != 0, direction != 0)


def test_each_expert_may_have_a_chance_of_its_own() -> None:
    vectors = [torch.ones(100_000), torch.ones(100_000)]
    at = place(experts=2, density=(0.1, 0.6))
    one, other = METHODS["dare_linear"].directions(torch.zeros(100_000), vectors, at)
    assert (one != 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (other != 0).float().mean().item() == pytest.approx(0.6, abs=0.01)
