"""How sure a score is: intervals for weighted task means and for paired differences.

An objective is the weighted mean over tasks of the task's mean score. Examples are the sampling unit and
tasks are fixed, so every resample draws examples within each task (a stratified bootstrap). The clustering of
examples that share a source document is *not* handled: the ids carry no document.

Which interval is used, and why:

- Scores that are all 0 or 1: Wilson's score interval per task (Wilson 1927), tasks combined by the method of
  variance estimates recovery (MOVER; Zou and Donner 2008). It needs no draws and stays honest at 100 %
  correct, where every bootstrap has zero width.
- Other scores: the bias-corrected and accelerated bootstrap (BCa; Efron 1987, JASA 82:171), falling back to
  the percentile interval where its correction is not defined.
- Paired differences: BCa on the differences per example, the same resampled examples for both sides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = Sequence[float] | Array
Test = Literal["McNemar's mid-p", "sign flips"]
# task -> example id -> score
ById = Mapping[str, Mapping[str, float]]

MCNEMAR: Test = "McNemar's mid-p"
SIGN_FLIPS: Test = "sign flips"
CONFIDENCE = 0.95
RESAMPLES = 5_000
# Keeps the index matrix of one resampling step near 32 MB, whatever the number of examples.
_CELLS = 4_000_000
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, from `n` examples. All in the unit of the score."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired difference, first minus second, over the same `n` examples.

    `changed` of them scored differently. `p` is the two-sided p-value of "no difference", `test` what it was taken
    from; None in results from before that was kept.
    """

    mean: float
    low: float
    high: float
    n: int
    p: float
    changed: int
    test: Test | None = None

    @property
    def distinguishable(self) -> bool:
        """True where both the interval and the test rule out zero.

        The interval alone is too bold where only a handful of examples changed: four changes in one direction
        give a bootstrap interval above zero, though chance does that once in eight times.
        """
        return (self.low > 0.0 or self.high < 0.0) and self.p < 1.0 - CONFIDENCE


def interval(
    outcomes: Mapping[str, Values],
    weights: Mapping[str, float],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The weighted mean over tasks of each task's mean score, with its 95 % interval.

    `outcomes` has one score per example for each task; `weights` one positive weight per task (they need not
    sum to one; weights of other tasks are ignored). The order of the scores does not matter. Raises
    ValueError on an empty task, a score that is not finite, or a task without a positive weight.
    """
    tasks = {task: np.sort(_checked(task, values)) for task, values in outcomes.items()}
    shares = _shares(tasks, weights)
    mean = math.fsum(shares[task] * float(values.mean()) for task, values in tasks.items())
    n = sum(values.size for values in tasks.values())
    if all(_is_binary(values) for values in tasks.values()):
        low, high = _mover_wilson(tasks, shares, mean)
    else:
        low, high = _bca(tasks, shares, mean, rng, resamples)
    return Estimate(mean, low, high, n)


def paired_difference(
    a: ById, b: ById, weights: Mapping[str, float], rng: np.random.Generator, resamples: int = RESAMPLES
) -> Difference:
    """The objective of `a` minus that of `b` on the same examples, with its 95 % interval and p-value.

    Each side maps a task to its scores by example id; the order of ids does not matter. The p-value is
    McNemar's mid-p for a single task of 0/1 scores (Fagerland, Lydersen and Laake 2013) and a sign-flip
    randomisation test otherwise. Raises ValueError where the two sides do not have the same tasks and ids.
    """
    differences = _differences(a, b)
    shares = _shares(differences, weights)
    mean = math.fsum(shares[task] * float(values.mean()) for task, values in differences.items())
    low, high = _bca(differences, shares, mean, rng, resamples)
    tasks = list(differences)
    if len(tasks) == 1 and _is_binary_pair(a[tasks[0]], b[tasks[0]]):
        p, test = mcnemar(differences[tasks[0]]), MCNEMAR
    else:
        p, test = _sign_flip(differences, shares, mean, rng, resamples), SIGN_FLIPS
    n = sum(values.size for values in differences.values())
    changed = sum(int(np.count_nonzero(values)) for values in differences.values())
    return Difference(mean, low, high, n, p, changed, test)


def differences_by_task(
    a: ById, b: ById, rng: np.random.Generator, resamples: int = RESAMPLES
) -> dict[str, Difference]:
    """`paired_difference` for each task alone, the p-values adjusted over the tasks by Holm (1979)."""
    _same_tasks(a, b)
    found = {task: paired_difference({task: a[task]}, {task: b[task]}, {task: 1.0}, rng, resamples) for task in a}
    adjusted = holm({task: difference.p for task, difference in found.items()})
    return {task: replace(difference, p=adjusted[task]) for task, difference in found.items()}


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for a proportion (Wilson 1927).

    Raises ValueError unless 0 <= successes <= n and n is positive.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"successes must lie between 0 and n, and n be positive, but got {successes} of {n}")
    z = _NORMAL.inv_cdf(0.5 + CONFIDENCE / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def mcnemar(differences: Values) -> float:
    """McNemar's two-sided mid-p value for 0/1 scores, from the paired differences (-1, 0 or 1).

    2 P(X <= k) - P(X = k) for X binomial(b + c, 1/2) and k the smaller of the two counts of changed examples;
    1 - P(X = k)/2 where they are equal (Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology
    13:91).
    """
    array = np.asarray(differences, dtype=np.float64)
    if not array.any():
        return 1.0
    up, down = int(np.count_nonzero(array > 0)), int(np.count_nonzero(array < 0))
    total, smaller = up + down, min(up, down)
    whole = math.lgamma(total + 1) - total * math.log(2.0)
    masses = [math.exp(whole - math.lgamma(k + 1) - math.lgamma(total - k + 1)) for k in range(smaller + 1)]
    if up == down:
        return 1.0 - 0.5 * masses[-1]
    return 2.0 * math.fsum(masses) - masses[-1]


def holm(pvalues: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) step-down adjustment: each p-value may then be held against the level alone."""
    adjusted: dict[str, float] = {}
    floor = 0.0
    for rank, key in enumerate(sorted(pvalues, key=lambda k: pvalues[k])):
        floor = max(floor, min(1.0, (len(pvalues) - rank) * pvalues[key]))
        adjusted[key] = floor
    return {key: adjusted[key] for key in pvalues}


def _checked(task: str, values: Values) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"task {task!r} must have one score per example and at least one, but has shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"scores must be finite, but task {task!r} has {array[~np.isfinite(array)][0]}")
    return array


def _shares(tasks: Mapping[str, Array], weights: Mapping[str, float]) -> dict[str, float]:
    """Each task's part of the objective; they sum to one."""
    if not tasks:
        raise ValueError("an objective needs the scores of at least one task, but got none")
    for task in tasks:
        if not weights.get(task, 0.0) > 0.0 or not math.isfinite(weights[task]):
            raise ValueError(f"every task needs a positive weight, but {task!r} has {weights.get(task)}")
    total = math.fsum(weights[task] for task in tasks)
    return {task: weights[task] / total for task in tasks}


def _same_tasks(a: ById, b: ById) -> None:
    if a.keys() != b.keys():
        raise ValueError(f"a paired difference needs the same tasks on both sides, but got {list(a)} and {list(b)}")


def _differences(a: ById, b: ById) -> dict[str, Array]:
    """Per task, first minus second for every example.

    They stand in the order of the ids, so that swapping the sides swaps signs and nothing else.
    """
    _same_tasks(a, b)
    found = {}
    for task in a:
        if a[task].keys() != b[task].keys():
            odd = sorted(a[task].keys() ^ b[task].keys())
            raise ValueError(
                f"a paired difference needs the same examples on both sides, but in task {task!r} {len(odd)} "
                f"stand on one side only, {odd[0]!r} first"
            )
        ids = sorted(a[task])
        first = _checked(task, [a[task][i] for i in ids])
        found[task] = first - _checked(task, [b[task][i] for i in ids])
    return found


def _is_binary(values: Array) -> bool:
    return bool(((values == 0.0) | (values == 1.0)).all())


def _is_binary_pair(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    return all(value in (0.0, 1.0) for side in (a, b) for value in side.values())


def _mover_wilson(tasks: Mapping[str, Array], shares: Mapping[str, float], mean: float) -> tuple[float, float]:
    """The interval of a weighted sum of independent proportions; for one task it is Wilson's own.

    Zou and Donner 2008, Statistics in Medicine 27:1693.
    """
    below = above = 0.0
    for task, values in tasks.items():
        low, high = wilson(int(values.sum()), values.size)
        below += (shares[task] * (float(values.mean()) - low)) ** 2
        above += (shares[task] * (high - float(values.mean()))) ** 2
    return max(0.0, mean - math.sqrt(below)), min(1.0, mean + math.sqrt(above))


def _bca(
    tasks: Mapping[str, Array],
    shares: Mapping[str, float],
    mean: float,
    rng: np.random.Generator,
    resamples: int,
) -> tuple[float, float]:
    """The 95 % BCa interval of a weighted mean of task means, `mean` being its value on the sample itself."""
    spread = {task: shares[task] * (values - values.mean()) / values.size for task, values in tasks.items()}
    variance = math.fsum(float((part**2).sum()) for part in spread.values())
    if not variance > 0.0:
        return mean, mean
    # The acceleration is a sixth of the skewness of the estimate (Efron and Tibshirani 1993, eq. 14.15). The
    # parts of `spread` are the estimate's independent terms, so their cubes and squares add up over the
    # strata.
    acceleration = math.fsum(float((part**3).sum()) for part in spread.values()) / (6.0 * variance**1.5)
    draws = np.sort(_resampled(tasks, shares, rng, resamples))
    return _corrected(draws, mean, acceleration)


def _corrected(draws: Array, mean: float, acceleration: float) -> tuple[float, float]:
    """BCa's two quantiles of the sorted draws (Efron and Tibshirani 1993, eq. 14.10 and 14.14)."""
    # Ties count half; the tolerance makes a tie of two sums that differ by rounding only.
    slack = 1e-12 * max(1.0, abs(mean))
    below = int(np.searchsorted(draws, mean - slack, side="left"))
    not_above = int(np.searchsorted(draws, mean + slack, side="right"))
    rank = 0.5 * (below + not_above) / draws.size
    levels = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)
    if 0.0 < rank < 1.0:
        bias = _NORMAL.inv_cdf(rank)
        shifted = [bias + _NORMAL.inv_cdf(level) for level in levels]
        if all(acceleration * z < 1.0 for z in shifted):
            levels = tuple(_NORMAL.cdf(bias + z / (1.0 - acceleration * z)) for z in shifted)  # type: ignore[assignment]
    low, high = np.quantile(draws, levels)
    return float(low), float(high)


def _resampled(
    tasks: Mapping[str, Array], shares: Mapping[str, float], rng: np.random.Generator, resamples: int
) -> Array:
    """The objective of each resample, examples drawn with replacement within tasks. Shape (resamples,)."""
    total = np.zeros(resamples)
    for task, values in tasks.items():
        rows = max(1, _CELLS // values.size)
        for start in range(0, resamples, rows):
            stop = min(start + rows, resamples)
            drawn = rng.integers(values.size, size=(stop - start, values.size), dtype=np.int32)
            total[start:stop] += shares[task] * values[drawn].mean(axis=1)
    return total


def _sign_flip(
    tasks: Mapping[str, Array],
    shares: Mapping[str, float],
    mean: float,
    rng: np.random.Generator,
    resamples: int,
) -> float:
    """How often random signs on the differences give an objective at least as far from zero.

    Under "no difference" the two sides of a pair may change places. One is added above and below, so that the
    value is never zero and the test is exact (Phipson and Smyth 2010).
    """
    terms = np.concatenate([shares[task] * values / values.size for task, values in tasks.items()])
    terms = terms[terms != 0.0]
    if terms.size == 0:
        return 1.0
    reached = 0
    rows = max(1, _CELLS // terms.size)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        bits = np.frombuffer(rng.bytes(count * ((terms.size + 7) // 8)), dtype=np.uint8).reshape(count, -1)
        heads = np.unpackbits(bits, axis=1, count=terms.size)
        sums = 2.0 * (heads.astype(np.float64) @ terms) - terms.sum()
        reached += int(np.count_nonzero(np.abs(sums) >= abs(mean) - 1e-12))
    return (reached + 1) / (resamples + 1)
