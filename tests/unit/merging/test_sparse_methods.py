"""The sparse methods against their formulas, written out entry by entry, and against what mergekit computes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from merging.check import check_recipe
from merging.errors import MergeError
from merging.groups import Group
from merging.methods import METHODS, At
from merging.methods.searchable import searchable
from merging.pieces import pieces
from merging.recipe import Recipe, Source
from merging.step import Step
from merging.whole import Whole

WEIGHTS = (0.7, -0.4, 1.1)


def task(count: int = 3, shape: Sequence[int] = (13, 41), seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    """A base and task vectors, some of whose entries are equal and some zero."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(-8, 9, tuple(shape), generator=generator) / 8.0
    return base, [torch.randint(-20, 21, tuple(shape), generator=generator) / 16.0 for _ in range(count)]


def merge(method: str, base: Tensor, vectors: Sequence[Tensor], row: Sequence[float], **settings: Any) -> Tensor:
    """The merged tensor, of models that consist of it."""
    tuned = [base + vector for vector in vectors]
    found = METHODS[method]
    structure = found.structure.model_validate(settings)
    at = At("w", tuple("abcdefgh"[: len(vectors)]), tuple(row), structure, 3)
    whole = Whole(["w"], {"w": base}.__getitem__, [{"w": one}.__getitem__ for one in tuned])
    return found.merge(base, tuned, replace(at, survey=found.survey(whole, structure)))


def elect(entries: Tensor, weights: Tensor, average: str, *, plus: bool) -> Tensor:
    """`entries` [experts, n] are weighted: the mean of those with the sign of their sum."""
    sign = entries.sum(0).sign()
    if plus:
        sign[sign == 0] = 1
    agree = (entries.sign() == sign) & (entries != 0)
    total = (entries * agree).sum(0)
    if average == "sum":
        return total
    divisor = (agree * (weights.unsqueeze(1) if average == "weights" else 1.0)).sum(0)
    return torch.where(divisor == 0, total, total / divisor)


def largest(vector: Tensor, k: int) -> Tensor:
    """1 for the k largest magnitudes, the first among equals."""
    mask = torch.zeros(vector.numel())
    mask[vector.flatten().abs().sort(descending=True, stable=True).indices[:k]] = 1
    return mask


@pytest.mark.parametrize("average", ["count", "weights", "sum"])
def test_ties_divides_by_what_it_is_told(average: str) -> None:
    base, vectors = task()
    kept = torch.stack([v.flatten() * (v.abs().flatten() >= largest_kept(v, 0.3)) for v in vectors])
    weights = torch.tensor(WEIGHTS)
    expected = elect(kept * weights.unsqueeze(1), weights, average, plus=False)
    merged = merge("ties", base, vectors, WEIGHTS, density=0.3, average=average, scale=0.5)
    assert torch.allclose(merged, base + 0.5 * expected.view(base.shape), atol=1e-5)


def largest_kept(vector: Tensor, density: float) -> float:
    return vector.abs().flatten().sort(descending=True).values[round(density * vector.numel()) - 1].item()


@pytest.mark.parametrize(("normalize", "average"), [(True, "weights"), (False, "sum")])
def test_ties_as_mergekit_keeps_the_exact_count_of_each_tensor_and_divides_by_weights(
    normalize: bool, average: str
) -> None:
    base, vectors = task()
    densities = (0.25, 0.5, 1.0)
    kept = torch.stack([v.flatten() * largest(v, int(d * v.numel())) for v, d in zip(vectors, densities, strict=True)])
    weights = torch.tensor((0.7, 0.4, 1.1))
    expected = elect(kept * weights.unsqueeze(1), weights, average, plus=True)
    settings = {} if normalize else {"average": "sum"}
    merged = merge("ties", base, vectors, (0.7, 0.4, 1.1), density=densities, compat="mergekit", **settings)
    assert torch.allclose(merged, base + expected.view(base.shape), atol=1e-5)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "localize_and_stitch"])
def test_a_row_scope_counts_in_each_row(method: str) -> None:
    base, vectors = task(1, (9, 40))
    merged = merge(method, base, vectors, (1.0,), density=0.25, scope="row")
    top = 0 if method != "breadcrumbs" else round(0.01 * 40)
    kept = round(0.25 * (40 - top))
    nonzero = (vectors[0] != 0).sum(1)
    assert torch.equal((merged != base).sum(1), nonzero.clamp(max=kept))
    flat = merge(method, base.flatten(), [vectors[0].flatten()], (1.0,), density=0.25, scope="row")
    assert int((flat != base.flatten()).sum()) == round(0.25 * 360) - (1 if method == "breadcrumbs" else 0)


@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_breadcrumbs_drops_both_ends(scope: str) -> None:
    generator = torch.Generator().manual_seed(0)
    vector = torch.stack([torch.randperm(100, generator=generator) + 1.0 for _ in range(3)])
    merged = merge("breadcrumbs", torch.zeros(3, 100), [vector], (1.0,), density=0.5, gamma=0.1, scope=scope)
    if scope == "row":
        assert all(sorted(row[row != 0].tolist()) == list(range(46, 91)) for row in merged)
    else:
        assert int((merged != 0).sum()) == 135
        assert merged.max() == 90


def test_breadcrumbs_as_mergekit_counts_its_density_from_all_and_never_zeroes_a_tensor() -> None:
    vector = torch.arange(1.0, 101.0)
    merged = merge("breadcrumbs", torch.zeros(100), [vector], (1.0,), density=0.5, gamma=0.1, compat="mergekit")
    assert merged[merged != 0].tolist() == list(range(41, 91))
    few = merge("breadcrumbs", torch.zeros(50), [vector[:50]], (1.0,), density=0.5, gamma=0.01, compat="mergekit")
    assert few[few != 0].tolist() == list(
        range(26, 51)
    )  # mergekit's own empties tensors of less than 1 / gamma entries
    crowded = merge("breadcrumbs", torch.zeros(100), [vector], (1.0,), density=0.95, gamma=0.1, compat="mergekit")
    assert crowded[crowded != 0].tolist() == list(range(1, 96))


def test_breadcrumbs_ties_is_breadcrumbs_with_an_election() -> None:
    base, vectors = task()
    alone = [merge("breadcrumbs", torch.zeros_like(base), [v], (1.0,), density=0.6, gamma=0.05) for v in vectors]
    elected = merge("ties", base, alone, WEIGHTS, density=1.0)
    merged = merge("breadcrumbs_ties", base, vectors, WEIGHTS, density=0.6, gamma=0.05)
    assert torch.allclose(merged, elected, atol=1e-6)


@pytest.mark.parametrize("method", ["dare", "della"])
def test_the_linear_variant_adds_up_what_the_other_elects_from(method: str) -> None:
    base, vectors = task()
    linear, elected = ("dare_linear", "dare_ties") if method == "dare" else ("della_linear", "della")
    settings: dict[str, Any] = {"density": 0.5}
    tuned = [base + vector for vector in vectors]
    at = At("w", ("a", "b", "c"), WEIGHTS, METHODS[linear].structure.model_validate(settings), 3)
    other = replace(at, structure=METHODS[elected].structure.model_validate(settings))
    directions = METHODS[linear].directions(base, tuned, at)
    others = METHODS[elected].directions(base, tuned, other)
    assert all(torch.equal(one, two) for one, two in zip(directions, others, strict=True))


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_sce_as_mergekit_masks_what_it_merges(density: float) -> None:
    base, vectors = task()
    deltas = torch.stack([vector.flatten() for vector in vectors])
    variance = deltas.var(0, unbiased=False)
    mask = (
        largest(variance, int(density * int((variance > 1e-9).sum()))) if density < 1 else torch.ones(deltas.shape[1])
    )
    deltas = deltas * mask
    energies = deltas.square().mean(1)
    etas = energies / energies.sum()
    expected = elect_by(deltas, etas, plus=True)
    merged = merge("sce", base, vectors, (1.0,) * 3, density=density, compat="mergekit")
    assert torch.allclose(merged, base + expected.view(base.shape), atol=1e-5)


def test_sce_masks_only_the_weights_as_its_authors_do() -> None:
    base, vectors = task()
    deltas = torch.stack([vector.flatten() for vector in vectors])
    variance = deltas.var(0, unbiased=False)
    energies = (deltas * largest(variance, int(0.2 * int((variance > 1e-9).sum())))).square().mean(1)
    expected = elect_by(deltas, energies / energies.sum(), plus=False)
    merged = merge("sce", base, vectors, (1.0,) * 3, density=0.2)
    assert torch.allclose(merged, base + expected.view(base.shape), atol=1e-5)


def elect_by(deltas: Tensor, etas: Tensor, *, plus: bool) -> Tensor:
    sign = deltas.sum(0).sign()
    if plus:
        sign[sign == 0] = 1
    weights = etas.unsqueeze(1) * ((deltas.sign() == sign) & (deltas != 0))
    divisor = weights.sum(0)
    return (deltas * weights).sum(0) / torch.where(divisor == 0, 1.0, divisor)


def test_sce_of_one_expert_is_that_expert() -> None:
    base, vectors = task(1)
    for mask in ("weights", "delta"):
        assert torch.equal(merge("sce", base, vectors, (1.0,), mask=mask), base + vectors[0])


def paper_pcb(vectors: list[Tensor], ratio: float) -> list[Tensor]:
    """What each expert adds, with full sorts; quantiles as in the authors' code."""
    deltas = torch.stack([vector.flatten() for vector in vectors]).double()
    count, size = deltas.shape

    def drawn(values: Tensor, low: float, high: float) -> Tensor:
        ordered = values.sort(1).values
        return values.clamp(
            ordered[:, int(size * low)].unsqueeze(1), ordered[:, int(size * (1 - high) - 1)].unsqueeze(1)
        )

    def to_one(values: Tensor) -> Tensor:
        low, high = values.min(1, keepdim=True).values, values.max(1, keepdim=True).values
        return (values - low) / (high - low)

    magnitudes = drawn(deltas.abs(), 1e-4, 1e-4)
    score = (count * to_one(magnitudes) ** 2).exp() * (deltas * deltas.sum(0)).tanh()
    beta = to_one(drawn(score, 1 - ratio, 0))
    parts = deltas.sign() * magnitudes * beta / beta.sum(0).clamp(min=1e-12)
    return [part.float() for part in parts]


@pytest.mark.parametrize("ratio", [0.05, 0.4])
@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_pcb_is_the_papers(ratio: float, scope: str) -> None:
    generator = torch.Generator().manual_seed(4)
    base = torch.zeros(30_000)
    vectors = [torch.randn(30_000, generator=generator) * 0.3 for _ in range(3)]
    expected = sum(w * part for w, part in zip(WEIGHTS, paper_pcb(vectors, ratio), strict=True))
    merged = merge("pcb", base, vectors, WEIGHTS, density=ratio, scope=scope)
    assert torch.allclose(merged, torch.as_tensor(expected), atol=2e-4)


def test_pcb_of_one_expert_that_keeps_all_only_draws_in_the_extremes() -> None:
    vector = torch.randn(50_000, generator=torch.Generator().manual_seed(5))
    merged = merge("pcb", torch.zeros(50_000), [vector], (1.0,), density=1.0)
    assert int((merged - vector).abs().gt(1e-6).sum()) <= 12  # 0.02 %, and the entry with the worst score


def test_cabs_gives_every_expert_entries_of_its_own() -> None:
    _, vectors = task(3, (10, 33))
    vectors = [vector + 10 for vector in vectors]  # none is zero
    base = torch.zeros(10, 33)
    at = At("w", ("a", "b", "c"), WEIGHTS, METHODS["cabs"].structure.model_validate({"keep": 5, "block": 16}))
    supports = [one.flatten() != 0 for one in METHODS["cabs"].directions(base, vectors, at)]
    assert int(torch.stack(supports).sum(0).max()) == 1
    for support in supports:
        assert [int(part.sum()) for part in pieces(support, 16)] == [5] * 20 + [10 * 5 // 16]
    first = vectors[0].flatten()[:16]
    assert torch.equal(supports[0][:16].float(), largest(first, 5))


def test_cabs_refuses_experts_that_want_more_than_there_is() -> None:
    experts = {name: Source(path=name) for name in ("a", "b", "c")}
    recipe = Recipe(
        method="cabs",
        base=Source(path="x"),
        experts=experts,
        coefficients={"head": (1.0, 1.0, 1.0)},
        structure={"keep": 100},
    )
    with pytest.raises(MergeError, match=r"3 experts cannot keep 100 entries each .* `keep` must be at most 85"):
        check_recipe(recipe, [Group(None, "head")])
    with pytest.raises(ValidationError, match="`keep` must be at most `block`"):
        METHODS["cabs"].structure.model_validate({"keep": 300})


def test_a_setting_of_each_expert_must_be_there_for_all() -> None:
    base, vectors = task(2)
    error = METHODS["ties"].row_error(
        (1.0, 1.0, 1.0), METHODS["ties"].structure.model_validate({"density": [0.1, 0.2]})
    )
    assert error == "`density` must be one number, or one per expert, but has 2 for 3 experts"
    both = merge("ties", base, vectors, (1.0, 1.0), density=(0.1, 1.0), scope="tensor")
    alone = merge("ties", base, [vectors[1]], (1.0,), density=1.0)
    unchanged = vectors[0].abs() < largest_kept(vectors[0], 0.1)
    assert torch.equal(both[unchanged], alone[unchanged])


def test_consensus_keeps_what_enough_experts_use() -> None:
    base, vectors = task()
    total = sum(vectors, torch.zeros_like(base))
    votes = sum((v.abs() >= 0.4 * (total - v).abs()).float() for v in vectors)
    weighted = sum(w * v for w, v in zip(WEIGHTS, vectors, strict=True))
    for k in range(5):
        merged = merge("consensus", base, vectors, WEIGHTS, votes=k)
        assert torch.allclose(merged, base + weighted * (votes >= k), atol=1e-6)
    assert torch.equal(merge("consensus", base, vectors, WEIGHTS, votes=4), base)
    assert torch.equal(
        merge("consensus", base, vectors, WEIGHTS, votes=0), merge("task_arithmetic", base, vectors, WEIGHTS)
    )
    assert torch.equal(merge("consensus", base, vectors[:1], (1.0,), votes=1), base + vectors[0])


def test_emr_takes_the_largest_that_agrees_and_magmax_the_largest() -> None:
    base = torch.zeros(5)
    vectors = [torch.tensor([1.0, -3.0, 2.0, 1.0, 0.0]), torch.tensor([2.0, 1.0, -2.0, -4.0, 0.0])]
    vectors.append(torch.tensor([0.5, 4.0, 0.0, 4.0, -1.0]))
    assert merge("emr", base, vectors, (1.0,) * 3).tolist() == [2.0, 4.0, 0.0, 4.0, -1.0]
    assert merge("magmax", base, vectors, (1.0,) * 3).tolist() == [2.0, 4.0, 2.0, -4.0, -1.0]
    assert merge("magmax", base, vectors, (-3.0, 1.0, 1.0)).tolist() == [-3.0, 9.0, -6.0, -4.0, -1.0]
    expert = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(merge("emr", torch.zeros(50), [expert], (1.0,)), expert)


def test_ram_adds_what_is_unique_and_averages_what_is_shared() -> None:
    one, other = torch.tensor([1.0, 2.0, 0.0, 1e-6]), torch.tensor([0.0, 4.0, 3.0, 0.0])
    base = torch.ones(4)
    assert torch.allclose(merge("ram", base, [one, other], (1.0, 1.0)), torch.tensor([2.0, 4.0, 4.0, 1.0]))
    assert torch.allclose(merge("ram", base, [one, one], (1.0, 1.0), epsilon=0.0), base + one)
    # each has one shared and one own change: rho is 1, which the limit holds to 0.2
    merged = merge("ram_plus", base, [one, other], (1.0, 1.0))
    assert torch.allclose(merged, torch.tensor([2.02, 4.0, 4.06, 1.0]))
    assert torch.allclose(
        merge("ram_plus", base, [one, other], (1.0, 1.0), limit=2.0), torch.tensor([2.1, 4.0, 4.3, 1.0])
    )


def test_ram_plus_counts_over_the_whole_model_or_over_a_tensor() -> None:
    method = METHODS["ram_plus"]
    names, base = ["v", "w"], torch.zeros(2)
    models = [{"v": torch.tensor([1.0, 1.0]), "w": torch.tensor([1.0, 0.0])}, {"v": torch.zeros(2), "w": torch.ones(2)}]
    whole = Whole(names, dict.fromkeys(names, base).__getitem__, [model.__getitem__ for model in models])
    settings = method.structure.model_validate({"limit": 10.0})
    # the first has two own changes and one shared, the second one of each
    assert method.survey(whole, settings) == pytest.approx((0.05, 0.1))
    at = At("w", ("a", "b"), (1.0, 1.0), method.structure.model_validate({"limit": 10.0, "scope": "tensor"}))
    assert method.survey(whole, at.structure) is None
    assert method.measure(base, [model["w"] for model in models], at) == pytest.approx((0.0, 0.1))


def test_localize_and_stitch_leaves_regions_of_one_expert_and_averages_overlaps() -> None:
    one, other = torch.tensor([9.0, 8.0, 0.1, 0.2]), torch.tensor([0.1, 6.0, 7.0, 0.2])
    for scope in ("model", "tensor"):
        merged = merge("localize_and_stitch", torch.zeros(4), [one, other], (1.0, 1.0), density=0.5, scope=scope)
        assert merged.tolist() == [9.0, 7.0, 7.0, 0.0]


def test_arcee_fusion_takes_what_stands_out_by_exact_quartiles() -> None:
    generator = torch.Generator().manual_seed(6)
    base = torch.randn(20, 101, generator=generator)
    vector = torch.randn(20, 101, generator=generator) * 0.1
    expert = base + vector
    p, q = (one.softmax(-1).double() + 1e-8 for one in (expert, base))
    score = (expert - base).abs().double() * (p * (p / q).log()).sum(-1, keepdim=True)
    ordered = score.flatten().sort().values
    low, middle, high = (ordered[int(share * (ordered.numel() - 1))] for share in (0.25, 0.5, 0.75))
    mask = score >= middle + 1.5 * (high - low)
    merged = merge("arcee_fusion", base, [vector], (1.0,))
    assert 0 < int(mask.sum()) < 400
    assert torch.allclose(merged, base + (expert - base) * mask, atol=1e-6)


def test_nearswap_weighs_changes_by_their_nearness() -> None:
    base = torch.zeros(5)
    vector = torch.tensor([0.0, 0.01, -0.02, 0.5, -3.0])
    weight = (0.02 / vector.abs()).nan_to_num(nan=1.0, posinf=1.0).clamp(0, 1)
    assert torch.allclose(merge("nearswap", base, [vector], (1.0,), t=0.02), weight * vector)
    assert torch.equal(merge("nearswap", base, [vector], (1.0,), t=0.0), base)
    assert torch.equal(merge("nearswap", base, [vector], (1.0,), t=10.0), vector)


@pytest.mark.parametrize(
    "method",  # not pcb, ram and nearswap, which know how large an entry is, nor arcee_fusion, which knows its row
    ["ties", "breadcrumbs_ties", "sce", "cabs", "consensus", "emr", "magmax", "localize_and_stitch"],
)
def test_twice_the_task_vectors_move_twice_as_far_by_any_method_that_has_no_size_of_its_own(method: str) -> None:
    _, vectors = task(2, (8, 64))
    base = torch.zeros(8, 64)
    row = (1.0, 0.5)
    settings = {"keep": 16} if method == "cabs" else {}
    merged = merge(method, base, vectors, row, **settings)
    assert torch.allclose(merge(method, base, [2 * v for v in vectors], row, **settings), 2 * merged, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ties", {"density": 0.3, "scope": "row"}),
        ("ties", {"density": 0.3, "compat": "mergekit"}),
        ("breadcrumbs", {}),
        ("breadcrumbs", {"scope": "row"}),
        ("dare_ties", {"compat": "mergekit"}),
        ("della", {}),
        ("della", {"density": 0.5, "epsilon": 0.1, "compat": "mergekit"}),
        ("sce", {"compat": "mergekit", "density": 0.5}),
        ("cabs", {"keep": 60, "block": 200}),
        ("pcb", {"scope": "tensor"}),
    ],
    ids=str,
)
def test_a_tensor_of_many_pieces_is_merged_as_if_it_were_one(method: str, settings: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(301, 1777, generator=generator).bfloat16()  # rows that no piece of 2^18 entries holds evenly
    tuned = [(base + 0.1 * torch.randn(301, 1777, generator=generator)).bfloat16() for _ in range(3)]
    found = METHODS[method]
    at = At("w", ("a", "b", "c"), (0.5, 0.3, 0.9), found.structure.model_validate(settings), 3)
    step = Step("w", (301, 1777), torch.float32, found, at, lambda: base, tuple(lambda one=one: one for one in tuned))  # type: ignore[misc]
    assert torch.equal(step.made(), found.merge(base, tuned, at))


def test_what_a_search_may_vary_is_declared_by_the_methods() -> None:
    expected = {
        "ties": {"density", "scope", "average", "scale", "compat"},
        "dare_linear": {"density", "rescale", "scale", "compat"},
        "della": {"density", "epsilon", "average", "rescale", "scale", "compat"},
        "breadcrumbs": {"density", "gamma", "scope", "scale", "compat"},
        "sce": {"density", "mask", "scale", "compat"},
        "cabs": {"keep", "scale", "compat"},
        "consensus": {"votes", "mask_factor", "scale", "compat"},
        "nearswap": {"t", "scale", "compat"},
    }
    for method, names in expected.items():
        assert set(searchable(METHODS[method].structure)) == names


def test_every_corner_of_dellas_ranges_is_allowed() -> None:
    ranges = searchable(METHODS["della"].structure)
    density, epsilon = ranges["density"], ranges["epsilon"]
    for d in (density.low, density.high):  # type: ignore[union-attr]
        for e in (epsilon.low, epsilon.high):  # type: ignore[union-attr]
            METHODS["della"].structure.model_validate({"density": d, "epsilon": e})
    assert math.isclose(METHODS["della"].structure().density, 0.7)  # type: ignore[attr-defined]


def test_more_votes_than_experts_are_refused_as_they_would_leave_the_base() -> None:
    consensus = METHODS["consensus"]
    said = consensus.row_error((1.0, 1.0), consensus.structure(votes=3))
    assert said == "`votes` must be at most the number of experts, 2, but is 3"
    assert consensus.row_error((1.0, 1.0), consensus.structure(votes=2)) is None
