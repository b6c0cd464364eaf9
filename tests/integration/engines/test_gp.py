"""What the Gaussian process promises beyond every engine: errors are weighed, failures are not repeated."""

from pathlib import Path

import numpy as np
import pytest

from optimizer.engines.gp import beginning
from optimizer.study import all_trials, tell
from tests.integration.engines.search import SPACE, Search, run_until, score


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(f"sqlite:///{tmp_path}/study.db", "gp")


def test_the_answer_under_noise_is_better_than_the_luckiest_trial(search: Search) -> None:
    assert search.engine.recommends
    assert search.engine.recommend() is None
    rng, true = np.random.default_rng(0), []
    for _ in range(20):
        trial = search.engine.ask()
        assert trial is not None
        true.append(score(trial.params)[0])
        error = {"standard_error": {"score": 0.5}, "examples": 64}
        tell(search.study, trial.number, [true[-1] + rng.normal(0, 0.5)], attributes=error)
    luckiest = max(all_trials(search.study), key=lambda trial: trial.values[0])
    answer = search.engine.recommend()
    assert answer is not None
    assert score(answer)[0] > score(luckiest.params)[0]


def test_a_point_that_failed_is_not_proposed_again(search: Search) -> None:
    run_until(search, beginning(len(SPACE)))
    tried = []
    for _ in range(3):
        trial = search.engine.ask()
        assert trial is not None
        tell(search.study, trial.number, None, error="a tensor holds NaN")
        tried.append([(trial.params[name] - one.low) / (one.high - one.low) for name, one in SPACE.items()])
    assert all(np.abs(np.subtract(tried[a], tried[b])).max() > 0.01 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_several_workers_get_points_of_their_own(search: Search) -> None:
    run_until(search, beginning(len(SPACE)))
    opened = [search.engine.ask() for _ in range(3)]
    drawn = [tuple(trial.params.values()) for trial in opened if trial is not None]
    assert len(set(drawn)) == 3
