"""What the trials in the database promise, on SQLite and PostgreSQL."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from optimizer.errors import InputError
from optimizer.study import (
    all_trials,
    enqueue_baseline,
    open_point,
    open_storage,
    open_study,
    open_waiting,
    points,
    running,
    tell,
)
from tests.postgres import PostgresServer

SPACE = {"weight.a": FloatDistribution(0, 1), "weight.b": FloatDistribution(0, 1)}
POINT = {"weight.a": 0.25, "weight.b": 1 / 3}


@pytest.fixture
def study(database_url: str) -> Iterator[optuna.Study]:
    storage = open_storage(database_url)
    yield open_study(storage, "demo", ["score"])
    storage.engine.dispose()


def test_a_study_is_made_once_and_found_again(database_url: str) -> None:
    first = open_study(open_storage(database_url), "demo", ["accuracy", "brevity"])
    again = open_study(open_storage(database_url), "demo", ["accuracy", "brevity"])
    assert again._study_id == first._study_id
    assert again.metric_names == ["accuracy", "brevity"]
    assert [direction.name for direction in again.directions] == ["MAXIMIZE", "MAXIMIZE"]
    for others in (["accuracy"], ["brevity", "accuracy"]):
        with pytest.raises(InputError, match=r"has the objectives \['accuracy', 'brevity'\]"):
            open_study(open_storage(database_url), "demo", others)


@pytest.mark.parametrize("name", ["", "x" * 513])
def test_a_name_that_the_database_cannot_hold_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 to 512 characters"):
        open_study(open_storage(f"{tmp_path}/a.db"), name, ["score"])


def test_sqlite_lets_readers_in_while_the_search_writes(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    with storage.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar_one() >= 10_000


def test_processes_that_start_together_agree_on_the_tables(database_url: str) -> None:
    code = "import sys; from optimizer.study import *; open_study(open_storage(sys.argv[1]), 'demo', ['score'])"
    command = [sys.executable, "-c", code, database_url]
    together = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) for _ in range(3)
    ]
    errors = [process.communicate()[1] for process in together]
    assert [process.returncode for process in together] == [0] * 3, errors
    assert optuna.get_all_study_names(open_storage(database_url)) == ["demo"]


def test_a_database_that_cannot_be_opened_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nobody:\*\*\*@127.0.0.1.*check that the server runs") as caught:
        open_storage("postgresql://nobody:hunter2secret@127.0.0.1:1/none")
    assert "hunter2secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(InputError, match="check that its folder exists"):
        open_storage(f"sqlite:///{tmp_path}/no/such/folder/a.db")


def test_a_point_goes_from_the_queue_to_its_result(study: optuna.Study) -> None:
    enqueue_baseline(study, POINT, {"label": "uniform average"})
    assert [trial.state for trial in all_trials(study)] == [TrialState.WAITING]
    trial = open_waiting(study, SPACE)
    assert trial is not None
    assert trial.params == POINT
    assert open_waiting(study, SPACE) is None
    assert [one.number for one in running(study)] == [trial.number]
    tell(study, trial.number, [0.5], attributes={"examples": 300})
    (told,) = all_trials(study)
    assert (told.state, told.values, told.params) == (TrialState.COMPLETE, [0.5], POINT)
    assert told.user_attrs == {"label": "uniform average", "examples": 300}
    assert points(study, SPACE, (TrialState.COMPLETE,)) == [told]


def test_a_baseline_outside_the_space_is_a_trial_with_a_recipe_and_no_point(study: optuna.Study) -> None:
    enqueue_baseline(study, None, {"recipe": '{"method": "ties"}'})
    trial = open_waiting(study, SPACE)
    assert trial is not None
    assert trial.params == {}
    tell(study, trial.number, [0.4])
    assert all_trials(study)[0].values == [0.4]
    assert points(study, SPACE, (TrialState.COMPLETE,)) == []
    with pytest.raises(ValueError, match="must carry its `recipe`"):
        enqueue_baseline(study, None, {"label": "ties"})


@pytest.mark.parametrize(
    ("queued", "reason"),
    [
        ({"weight.a": 0.5}, "'weight.b' has none"),
        ({"weight.a": 0.5, "weight.b": 1.5}, "`weight.b` must be in"),
        ({"weight.a": 0.5, "weight.b": "much"}, "but is 'much'"),
        ({"weight.a": 0.5, "weight.b": 0.5, "weight.x": 0.5}, "no parameter 'weight.x'"),
    ],
)
def test_a_point_queued_by_hand_that_does_not_fit_fails_and_holds_nobody_up(
    study: optuna.Study, queued: dict[str, object], reason: str
) -> None:
    study.enqueue_trial(queued)
    enqueue_baseline(study, POINT, {})
    trial = open_waiting(study, SPACE)
    assert trial is not None
    assert trial.params == POINT
    misfit = all_trials(study)[0]
    assert misfit.state == TrialState.FAIL
    assert reason in misfit.user_attrs["error"]


def test_a_result_is_recorded_once(study: optuna.Study) -> None:
    trial = open_point(study, POINT, SPACE, {"origin": "search"})
    tell(study, trial.number, [0.5])
    for values, error in (([0.6], None), (None, "too late")):
        with pytest.raises(ValueError, match="trial 0 is COMPLETE"):
            tell(study, trial.number, values, error=error)
    assert all_trials(study)[0].values == [0.5]
    enqueue_baseline(study, POINT, {})
    with pytest.raises(ValueError, match="trial 1 is WAITING"):
        tell(study, 1, [0.5])


def test_a_failure_keeps_its_reason_and_is_no_score(study: optuna.Study) -> None:
    trial = open_point(study, POINT, SPACE, {"origin": "search"})
    tell(study, trial.number, None, error="`model.norm.weight` holds NaN")
    (failed,) = all_trials(study)
    assert (failed.state, failed.values) == (TrialState.FAIL, None)
    assert failed.user_attrs["error"] == "`model.norm.weight` holds NaN"


@pytest.mark.parametrize("values", [[float("inf")], [float("nan")], [0.1, 0.2], []])
def test_only_finite_values_one_per_objective_are_scores(study: optuna.Study, values: list[float]) -> None:
    trial = open_point(study, POINT, SPACE, {})
    with pytest.raises(ValueError, match="1 finite values"):
        tell(study, trial.number, values)
    with pytest.raises(ValueError, match="values or an error"):
        tell(study, trial.number, None)
    assert running(study)[0].number == trial.number


def test_a_point_outside_its_range_is_never_written(study: optuna.Study) -> None:
    with pytest.raises(ValueError, match="isn't contained"):
        open_point(study, {**POINT, "weight.b": 1.1}, SPACE, {})
    assert all_trials(study) == []


@contextmanager
def _broken_at_commit(study: optuna.Study, error: BaseException, committed: bool) -> Iterator[None]:
    """The next commit does what it is told, or nothing, and its answer is the error."""
    engine, left = study._storage._backend.engine, [error]  # type: ignore[attr-defined]

    def break_once(connection: Connection) -> None:
        if left:
            driver = connection.connection.driver_connection
            assert driver is not None
            if committed:
                driver.commit()
            raise left.pop()

    event.listen(engine, "commit", break_once)
    yield
    event.remove(engine, "commit", break_once)
    assert left == []


def _answer_lost(study: optuna.Study) -> AbstractContextManager[None]:
    return _broken_at_commit(study, OperationalError("COMMIT", {}, ConnectionError("the line broke")), committed=True)


def test_a_coordinator_killed_while_opening_a_trial_leaves_it_queued_or_nothing(study: optuna.Study) -> None:
    enqueue_baseline(study, POINT, {})
    with pytest.raises(KeyboardInterrupt), _broken_at_commit(study, KeyboardInterrupt(), committed=False):
        open_waiting(study, SPACE)
    with pytest.raises(KeyboardInterrupt), _broken_at_commit(study, KeyboardInterrupt(), committed=False):
        open_point(study, POINT, SPACE, {})
    (queued,) = _as_a_restart_reads_it(study)
    assert (queued.state, queued.params) == (TrialState.WAITING, {})
    trial = open_waiting(study, SPACE)
    assert trial is not None
    assert trial.params == POINT


def test_a_queued_trial_that_an_older_version_opened_by_half_is_opened_whole(study: optuna.Study) -> None:
    enqueue_baseline(study, POINT, {})
    queued = all_trials(study)[0]._trial_id
    study._storage._backend.set_trial_param(queued, "weight.a", 0.25, SPACE["weight.a"])  # type: ignore[attr-defined]
    trial = open_waiting(study, SPACE)
    assert trial is not None
    assert [one.params for one in _as_a_restart_reads_it(study)] == [trial.params] == [POINT]


def test_an_answer_lost_on_the_way_does_not_lose_or_repeat_the_result(study: optuna.Study) -> None:
    trial = open_point(study, POINT, SPACE, {})
    with _answer_lost(study):
        tell(study, trial.number, [0.5], attributes={"examples": 3}, constraints={"toxicity": -0.1})
    (told,) = _as_a_restart_reads_it(study)
    assert (told.values, told.user_attrs, told.constraints) == ([0.5], {"examples": 3}, {"toxicity": -0.1})
    assert all_trials(study) == [told]


def test_an_answer_lost_on_the_way_does_not_lose_the_queued_trial(study: optuna.Study) -> None:
    enqueue_baseline(study, POINT, {})
    enqueue_baseline(study, POINT, {})
    with _answer_lost(study):
        trial = open_waiting(study, SPACE)
    assert trial is not None
    assert trial.number == 0
    assert [one.number for one in running(study)] == [0]


def test_an_answer_lost_on_the_way_does_not_open_or_queue_a_trial_twice(study: optuna.Study) -> None:
    with _answer_lost(study):
        opened = open_point(study, POINT, SPACE, {"origin": "search", "generation": 0}, {"of": (1, 2)})
    with _answer_lost(study):
        enqueue_baseline(study, POINT, {"label": "uniform average"})
    states = [(one.number, one.state.name) for one in _as_a_restart_reads_it(study)]
    assert states == [(0, "RUNNING"), (1, "WAITING")]
    assert opened.number == 0


def test_what_a_search_knows_of_its_trials_is_what_a_restart_would_read(study: optuna.Study) -> None:
    ranges = SPACE | {"method": CategoricalDistribution(["ties", "dare"]), "layers": IntDistribution(1, 9)}
    enqueue_baseline(study, {"layers": 3, "method": "dare", **POINT}, {"label": "uniform average"})
    enqueue_baseline(study, None, {"label": "ties", "recipe": "{}"})
    for values in ([0.5], [0.25]):
        opened = open_waiting(study, ranges)
        assert opened is not None
        tell(study, opened.number, values, attributes={"tasks": {"a": {"metric": 1}}}, constraints={"a": 0.0})
    for place in range(3):
        values = {"weight.a": np.float64(place / 3), "weight.b": 1, "method": "ties", "layers": np.int64(5)}
        opened = open_point(study, values, ranges, {"origin": "search", "pair": (place, 2)})
    tell(study, opened.number, None, error="`model.norm.weight` holds NaN")
    study.enqueue_trial({"weight.a": 2.0})
    assert all_trials(study) == _as_a_restart_reads_it(study)
    again = open_study(open_storage(study._storage._backend.url), "demo", ["score"])  # type: ignore[attr-defined]
    assert all_trials(again) == all_trials(study)
    assert open_waiting(study, ranges) is None
    assert all_trials(again) == all_trials(study) == _as_a_restart_reads_it(study)


def test_what_somebody_else_adds_or_tells_is_seen(study: optuna.Study) -> None:
    other = optuna.load_study(study_name="demo", storage=study._storage._backend.url)  # type: ignore[attr-defined]
    ours = open_point(study, POINT, SPACE, {"origin": "search"})
    other.enqueue_trial(POINT)
    further = open_point(study, POINT, SPACE, {"origin": "search"})
    assert (ours.number, further.number) == (0, 2)
    queued = open_waiting(study, SPACE)
    assert queued is not None
    assert queued.number == 1
    other.tell(ours.number, 0.75)
    with pytest.raises(ValueError, match="trial 0 is COMPLETE"):
        tell(study, ours.number, [0.5])
    other.tell(further.number, 0.25)
    assert [one.values for one in all_trials(study)] == [[0.75], None, [0.25]]


def test_a_parameter_keeps_its_kind(study: optuna.Study) -> None:
    open_point(study, POINT, SPACE, {})
    with pytest.raises(ValueError, match="different distribution kind"):
        open_point(study, {"weight.a": 1}, {"weight.a": IntDistribution(0, 1)}, {})


def _as_a_restart_reads_it(study: optuna.Study) -> list[FrozenTrial]:
    """Every trial by Optuna's own reading, in a storage of its own."""
    url = study._storage._backend.url  # type: ignore[attr-defined]
    return optuna.load_study(study_name=study.study_name, storage=url).get_trials()


@contextmanager
def _down_for(server: PostgresServer, seconds: float) -> Iterator[None]:
    server.stop()

    def come_back() -> None:
        time.sleep(seconds)
        server.start()

    back = threading.Thread(target=come_back)
    back.start()
    yield
    back.join()


def test_a_result_in_hand_waits_for_a_database_that_is_away(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    study = open_study(open_storage(url), "demo", ["score"])
    trial = open_point(study, POINT, SPACE, {})
    with _down_for(postgres, 1.5):
        tell(study, trial.number, [0.5])
    with _down_for(postgres, 1.5):
        following = open_point(study, POINT, SPACE, {})
    assert [(one.number, one.state.name) for one in all_trials(study)] == [(0, "COMPLETE"), (1, "RUNNING")]
    assert following.number == 1
