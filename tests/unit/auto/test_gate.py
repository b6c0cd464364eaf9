"""The gradient is followed where the loss ranks merges as the metric does."""

import numpy as np
import pytest
from quadratics import landscape, problem_of

from evaluators.protocol import Outcome
from optimizer.auto.asks import Answer, Scored
from optimizer.auto.gate import LEAST_ARMS, gate, rank_correlation
from optimizer.auto.state import State

IDS = [f"t0:{number}" for number in range(4)]


def judged(metric: list[float], smooth: list[float | None]) -> str | None:
    """What the gate says of merges with these scores on all examples."""
    state = State(problem_of(landscape(1)))
    candidates = [state.candidate(None) for _ in metric]
    program = state.score([(one, IDS) for one in candidates])
    next(program)
    answers: list[Answer] = [
        Scored([Outcome(name, value, twin) for name in IDS]) for value, twin in zip(metric, smooth, strict=True)
    ]
    with pytest.raises(StopIteration):
        program.send(answers)
    return gate(state)


def test_a_loss_that_ranks_like_the_metric_is_followed() -> None:
    assert judged([0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.1, 0.4, 0.5, 0.9]) is None


def test_a_loss_that_ranks_the_other_way_round_is_refused_with_the_number_met() -> None:
    reason = judged([0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.8, 0.7, 0.6, 0.5])
    assert reason is not None
    assert "rank correlation -1.00 over 5 warm starts" in reason


def test_few_merges_refuse_nothing() -> None:
    few = LEAST_ARMS - 1
    assert judged([float(number) for number in range(few)], [float(-number) for number in range(few)]) is None


def test_without_a_smooth_score_there_is_nothing_to_compare() -> None:
    assert judged([0.1, 0.2, 0.3, 0.4, 0.5], [None] * 5) is None


def test_rank_correlation_is_spearmans_with_shared_ranks() -> None:
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 400.0])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    assert rank_correlation(np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 2.0, 1.0, 3.0])) == pytest.approx(
        np.corrcoef([1, 2.5, 2.5, 4], [1, 3, 2, 4])[0, 1]
    )
    assert rank_correlation(np.array([1.0, 1.0]), np.array([1.0, 2.0])) == 0.0
