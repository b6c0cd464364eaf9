"""Each method against its paper: closed forms, exact counts, statistics."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from merging.methods import METHODS, At
from merging.methods.arithmetic import kept_count
from merging.methods.breadcrumbs import Breadcrumbs
from merging.methods.dare import Dare
from merging.methods.della import Della
from merging.methods.linear import Linear
from merging.methods.method import NoStructure
from merging.methods.rows import top_of_rows
from merging.methods.ties import Ties

WEIGHTS = st.floats(-2, 2, allow_subnormal=False)


def at(structure: object, row: tuple[float, ...], seed: int = 0, **more: object) -> At:  # type: ignore[type-arg]
    names = (
        tuple("abc"[: len(row)])
        if isinstance(structure, Dare | Della | Breadcrumbs)
        else tuple("abcdefgh"[: max(len(row), 2)])
    )
    return At("tensor", names, row, structure, seed, **more)  # type: ignore[arg-type]


def paper_ties(base: Tensor, tuned: list[Tensor], density: float, scale: float) -> Tensor:
    """TIES entry by entry in plain Python, from the paper's algorithm 1, one tensor being the whole model."""
    vectors = [[float(x) for x in (one - base).flatten()] for one in tuned]
    trimmed = []
    for vector in vectors:
        kept = sorted((abs(x) for x in vector), reverse=True)[: round(density * len(vector))]
        trimmed.append([x if abs(x) >= kept[-1] else 0.0 for x in vector])
    merged = []
    for entries in zip(*trimmed, strict=True):
        total = sum(entries)
        agreeing = [x for x in entries if x * total > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return base + scale * torch.tensor(merged).reshape(base.shape)


@pytest.mark.parametrize("density", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_ties_with_equal_weights_is_the_papers(density: float, scope: str) -> None:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(20, 10, generator=generator)
    tuned = [base + torch.randn(20, 10, generator=generator) for _ in range(4)]
    thresholds = None
    if scope == "model":
        k = round(density * 200)
        thresholds = tuple(float((one - base).abs().flatten().sort(descending=True).values[k - 1]) for one in tuned)
    place = at(Ties(density=density, scope=scope), (0.7,) * 4, survey=thresholds)
    merged = METHODS["ties"].merge(base, tuned, place)
    assert torch.allclose(merged, paper_ties(base, tuned, density, 0.7), atol=1e-6)


def test_two_opposite_experts_of_equal_weight_leave_the_base() -> None:
    base, step = torch.ones(4), torch.tensor([1.0, -2.0, 3.0, 0.5])
    place = at(Ties(density=1), (0.5, 0.5))
    assert torch.equal(METHODS["ties"].merge(base, [base + step, base - step], place), base)


def test_an_expert_without_weight_has_no_vote_and_does_not_dilute_the_mean() -> None:
    base = torch.zeros(3)
    tuned = [torch.tensor([1.0, 2.0, -3.0]), torch.tensor([-9.0, 9.0, 9.0])]
    merged = METHODS["ties"].merge(base, tuned, at(Ties(density=1), (1.0, 0.0)))
    assert merged.tolist() == [1.0, 2.0, -3.0]


def test_weights_count_inside_the_election() -> None:
    base = torch.zeros(1)
    tuned = [torch.tensor([2.0]), torch.tensor([-3.0])]
    assert METHODS["ties"].merge(base, tuned, at(Ties(density=1), (1.0, 1.0))).item() == -3.0
    assert METHODS["ties"].merge(base, tuned, at(Ties(density=1), (1.0, 0.5))).item() == 2.0


@pytest.mark.parametrize("density", [0.05, 0.3, 0.9])
def test_dare_is_unbiased_with_the_variance_of_its_law(density: float) -> None:
    base, vector, draws = torch.zeros(4000), torch.full((4000,), 2.0), 60
    total = torch.zeros(4000)
    for seed in range(draws):
        total += METHODS["dare_linear"].merge(base, [vector], at(Dare(density=density), (1.0,), seed))
    mean = total / draws / 2
    deviation = math.sqrt((1 - density) / density / draws)  # of one entry's mean
    assert abs(mean.mean().item() - 1) < 5 * deviation / math.sqrt(4000)
    assert mean.std().item() == pytest.approx(deviation, rel=0.1)


def test_dare_keeps_the_share_it_says_and_scales_by_its_inverse() -> None:
    base, vector = torch.zeros(100_000), torch.ones(100_000)
    (direction,) = METHODS["dare_linear"].directions(base, [vector], at(Dare(density=0.2), (1.0,)))
    assert sorted(set(direction.tolist())) == [0.0, pytest.approx(5, rel=1e-4)]  # chances are met to one part in 2^16
    assert (direction > 0).float().mean().item() == pytest.approx(0.2, abs=0.007)


def test_one_heavy_entry_is_not_shrunk_by_dare() -> None:
    """Matching the tensor's total instead of dividing by the density would scale this entry by a fifth."""
    vector = torch.full((100,), 1e-4)
    vector[3] = 10.0
    mean = torch.zeros(100)
    for seed in range(2000):
        mean += METHODS["dare_linear"].merge(torch.zeros(100), [vector], at(Dare(density=0.2), (1.0,), seed)) / 2000
    assert mean[3].item() == pytest.approx(10.0, rel=0.25)


def test_della_is_unbiased_at_every_rank() -> None:
    vector = torch.linspace(0.1, 10, 50).repeat(40, 1)
    mean = torch.zeros(40, 50)
    for seed in range(150):
        place = at(Della(density=0.5, epsilon=0.8), (1.0,), seed)
        mean += METHODS["della"].directions(torch.zeros(40, 50), [vector], place)[0] / 150
    ratio = (mean / vector).mean(0)
    assert ratio[:5].mean().item() == pytest.approx(1, abs=0.06)  # kept one time in ten
    assert ratio[-5:].mean().item() == pytest.approx(1, abs=0.02)


def test_della_keeps_the_large_entries_of_a_row_more_often() -> None:
    rows = torch.stack([torch.linspace(-5, 5, 101), torch.linspace(3, -3, 101) * 1e-3]).repeat(400, 1)
    place = at(Della(density=0.5, epsilon=0.6), (1.0,))
    (direction,) = METHODS["della"].directions(torch.zeros_like(rows), [rows], place)
    kept = (direction != 0).float()
    outer, inner = kept[:, [0, 1, 99, 100]].mean().item(), kept[:, [48, 49, 51, 52]].mean().item()
    assert outer == pytest.approx(0.8, abs=0.03)  # density + epsilon / 2
    assert inner == pytest.approx(0.21, abs=0.03)  # density - epsilon / 2
    assert kept.mean().item() == pytest.approx(0.5, abs=0.01)


def test_della_without_a_window_is_dare_with_the_same_draws() -> None:
    vector = torch.randn(30, 40, generator=torch.Generator().manual_seed(3))
    base = torch.zeros(30, 40)
    dare = METHODS["dare_ties"].merge(base, [vector], at(Dare(density=0.25), (1.0,)))
    della = METHODS["della"].merge(base, [vector], at(Della(density=0.25, epsilon=0), (1.0,)))
    assert torch.allclose(della, dare)


@pytest.mark.parametrize(("density", "epsilon"), [(0.05, 0.2), (0.98, 0.1), (1.0, 0.14)])
def test_della_refuses_a_window_that_leaves_the_chances(density: float, epsilon: float) -> None:
    with pytest.raises(ValidationError, match="epsilon can be at most"):
        Della(density=density, epsilon=epsilon)


@given(st.integers(1, 400), st.floats(0.01, 1), st.floats(0, 0.99), st.booleans())
@example(1, 0.5, 0.99, False)
@example(99, 0.9, 0.001, True)
def test_breadcrumbs_keeps_exact_counts_and_never_a_whole_tensor_of_zeros(
    size: int, density: float, gamma: float, equal: bool
) -> None:
    vector = torch.ones(size) if equal else torch.randperm(size, generator=torch.Generator().manual_seed(0)) + 1.0
    place = at(Breadcrumbs(density=density, gamma=gamma), (1.0,))
    (direction,) = METHODS["breadcrumbs"].directions(torch.zeros(size), [vector], place)
    top = min(round(gamma * size), size - 1)
    kept = kept_count(density, size - top)
    assert int((direction != 0).sum()) == kept >= 1
    if not equal:  # ranks 1..size: those just below the dropped top
        assert direction[direction != 0].sort().values.tolist() == list(range(size - top - kept + 1, size - top + 1))


def test_breadcrumbs_without_gamma_keeps_the_largest() -> None:
    vector = torch.tensor([5.0, -1.0, 3.0, 0.5, -4.0])
    place = at(Breadcrumbs(density=0.4, gamma=0), (1.0,))
    (direction,) = METHODS["breadcrumbs"].directions(torch.zeros(5), [vector], place)
    assert direction.tolist() == [5.0, 0.0, 0.0, 0.0, -4.0]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_a_top_mask_has_the_asked_count_whatever_is_equal(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, len(values)))
    magnitudes = torch.tensor(values, dtype=torch.float32).abs()
    (mask,) = top_of_rows(magnitudes[None], k)
    assert int(mask.sum()) == k
    if 0 < k < len(values):
        assert magnitudes[mask].min() >= magnitudes[~mask].max()


def test_a_task_vector_and_its_negative_cancel() -> None:
    base = torch.randn(50, generator=torch.Generator().manual_seed(0))
    merged = METHODS["task_arithmetic"].merge(base, [base + 1, base - 1], at(NoStructure(), (0.5, 0.5)))
    assert torch.allclose(merged, base, atol=1e-6)


def test_linear_is_the_average_with_weights_brought_to_one() -> None:
    tuned = [torch.full((3,), 2.0), torch.full((3,), 8.0)]
    assert METHODS["linear"].merge(None, tuned, at(Linear(), (3.0, 1.0))).tolist() == [3.5] * 3
    assert METHODS["linear"].merge(None, tuned, at(Linear(normalize=False), (3.0, 1.0))).tolist() == [14.0] * 3


@given(st.lists(WEIGHTS, min_size=2, max_size=4))
def test_task_arithmetic_is_linear_in_its_weights(row: list[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(30, generator=generator)
    tuned = [base + torch.randn(30, generator=generator) for _ in row]
    merged = METHODS["task_arithmetic"].merge(base, tuned, at(NoStructure(), tuple(row)))
    exact = base.double() + sum(w * (one - base).double() for w, one in zip(row, tuned, strict=True))
    assert torch.allclose(merged.double(), exact, atol=1e-5)


def slerp(v0: Tensor, v1: Tensor, t: float) -> Tensor:
    return METHODS["slerp"].merge(None, [v0, v1], at(NoStructure(), (t,)))


def exact_slerp(v0: Tensor, v1: Tensor, t: float) -> Tensor:
    a, b = v0.double(), v1.double()
    angle = 2 * math.atan2((a / a.norm() - b / b.norm()).norm().item(), (a / a.norm() + b / b.norm()).norm().item())
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def test_slerp_starts_at_one_model_and_ends_at_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    v0, v1 = torch.randn(64, generator=generator), torch.randn(64, generator=generator)
    assert torch.equal(slerp(v0, v1, 0.0), v0)
    assert torch.allclose(slerp(v0, v1, 1.0), v1, atol=1e-7)


@given(st.floats(0, 1), st.floats(1e-4, 3.1))
def test_slerp_stays_on_the_sphere_at_any_angle(t: float, angle: float) -> None:
    v0 = torch.tensor([1.0, 0.0, 0.0])
    v1 = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
    assert slerp(v0, v1, t).norm().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("noise", [1.0, 0.02, 1e-4])
def test_slerp_is_exact_at_the_small_angles_of_fine_tunes(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    v0 = torch.randn(5000, generator=generator)
    v1 = v0 + noise * torch.randn(5000, generator=generator)
    assert torch.allclose(slerp(v0, v1, 0.3).double(), exact_slerp(v0, v1, 0.3), atol=1e-6)


@pytest.mark.parametrize("factor", [2.0, 1.0, -1.0, 0.0])
def test_slerp_of_colinear_models_is_the_point_on_their_line(factor: float) -> None:
    v0 = torch.tensor([3.0, -4.0])
    assert torch.allclose(slerp(v0, factor * v0, 0.25), 0.75 * v0 + 0.25 * factor * v0, atol=1e-6)


def test_slerp_with_base_and_two_experts_turns_the_task_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(100, generator=generator)
    one, other = torch.randn(100, generator=generator), torch.randn(100, generator=generator)
    merged = METHODS["slerp"].merge(base, [base + one, base + other], at(NoStructure(), (0.4,)))
    assert torch.allclose(merged.double(), base.double() + exact_slerp(one, other, 0.4), atol=1e-5)


def test_slerp_with_a_base_and_one_expert_goes_from_the_base_to_it() -> None:
    base, expert = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    place = At("tensor", ("a",), (0.5,), NoStructure())
    merged = METHODS["slerp"].merge(base, [expert], place)
    assert torch.allclose(merged, torch.full((2,), math.sqrt(0.5)))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "breadcrumbs"])
def test_twice_the_task_vectors_move_twice_as_far(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.zeros(300)
    tuned = [torch.randn(300, generator=generator) for _ in range(3)]
    structure = METHODS[method].structure.model_validate({"scope": "tensor"} if method == "ties" else {})
    place = at(structure, (0.2, 0.5, 0.9))
    merged = METHODS[method].merge(base, tuned, place)
    assert torch.allclose(METHODS[method].merge(base, [2 * one for one in tuned], place), 2 * merged, atol=1e-6)
