"""Whether the loss ranks merges like the metric: where it does not, its gradient leads astray.

Loss and metric of merged language models can differ widely (BOMF, arXiv 2411.06710).
"""

import numpy as np

from optimizer.auto.asks import Array
from optimizer.auto.state import State

LEAST_ARMS = 5
LEAST_CORRELATION = 0.3


def gate(state: State) -> str | None:
    """Why the gradient is not to be used, None where it is.

    Compares the ranks of all candidates scored so far, by the metric and by the smooth score, on their common examples.
    """
    scored = [state.outcomes(one) for one in state.candidates if state.outcomes(one)]
    measure = state.problem.measure
    if len(scored) < LEAST_ARMS or measure.signal == "smooth":
        return None
    if measure.taught(state.problem.examples["gradient"]):  # the smooth score is no measure of that loss
        return None
    common = [name for name in scored[0] if all(name in known for known in scored)]
    weights = measure.weights(common)
    rows = [[known[name] for name in common] for known in scored]
    smooth = [float(weights @ measure.values(row, "smooth")) for row in rows]
    metric = [float(weights @ measure.values(row, "metric")) for row in rows]
    if not common or not np.all(np.isfinite(smooth)) or len(set(metric)) == 1:
        return None  # nothing speaks against it
    found = rank_correlation(np.array(smooth), np.array(metric))
    if found < LEAST_CORRELATION:
        return (
            f"its loss does not rank merges like the metric (rank correlation {found:.2f} over {len(rows)} warm "
            f"starts, {LEAST_CORRELATION:g} wanted)"
        )
    return None


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's; ties share their mean rank. 0 where either has only one value."""
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(), b - b.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def _ranks(values: Array) -> Array:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2.0)[place]
    return ranks
