"""Outcomes survive the way into a blob and back."""

import numpy as np
import pytest

from optimizer.outcomes import Columns, pack, unpack


def _columns(**changes: object) -> Columns:
    values = {
        "positions": np.array([7, 0, 300], np.int32),
        "metric": np.array([1.0, 0.0, 1 / 3]),
        "smooth": np.array([0.1, np.nan, 0.999]),
        "loglikelihood": np.array([-1e-17, np.nan, -123.456789]),
    }
    return Columns(**{**values, **changes})  # type: ignore[arg-type]


def test_every_bit_of_a_score_comes_back_in_the_order_it_was_scored() -> None:
    before = _columns()
    after = unpack(pack(before))
    for name in ("positions", "metric", "smooth", "loglikelihood"):
        was, became = getattr(before, name), getattr(after, name)
        assert was.dtype == became.dtype
        assert was.tobytes() == became.tobytes()


def test_a_score_the_task_does_not_have_is_absent_not_zero() -> None:
    after = unpack(pack(_columns(smooth=None, loglikelihood=None)))
    assert after.smooth is not None
    assert np.isnan(after.smooth).all()
    assert np.isnan(after.loglikelihood).all()  # type: ignore[arg-type]


def test_a_round_of_no_examples_is_possible() -> None:
    assert len(unpack(pack(Columns(np.array([], np.int32), np.array([])))).metric) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_metric_that_is_not_finite_is_refused_with_its_position(value: float) -> None:
    with pytest.raises(ValueError, match="position 300"):
        pack(_columns(metric=np.array([1.0, 0.0, value])))


@pytest.mark.parametrize("positions", [[1, 2, 1], [0, -1, 3]])
def test_positions_that_name_no_example_or_one_twice_are_refused(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="distinct and not negative"):
        pack(_columns(positions=np.array(positions, np.int32)))


@pytest.mark.parametrize("name", ["metric", "smooth", "loglikelihood"])
def test_a_column_of_another_length_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must have one number per example"):
        pack(_columns(**{name: np.array([0.5])}))
