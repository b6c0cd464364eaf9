"""What an attempt that lost its job still wants to tell Optuna is refused, whole."""

import threading
import time

import optuna
import pytest
from sqlalchemy import Engine

from optimizer.database import connect
from optimizer.fence import fence
from optimizer.jobs import Job, LeaseLost, create_job
from optimizer.lease import Lease
from optimizer.owners import new_owner
from optimizer.queue import claim_next
from optimizer.requests import request_cancel
from optimizer.scorer import Interrupted
from optimizer.study import all_trials, open_point, open_storage, open_study, tell

SPACE: dict[str, optuna.distributions.BaseDistribution] = {"x": optuna.distributions.FloatDistribution(0, 1)}
OVER = -1.0


def _url(database: Engine) -> str:
    return database.url.render_as_string(hide_password=False)


def _taken(database: Engine, seconds: float) -> Job:
    """Claimed as a controller does: a row that a zombie's write holds just now is passed over until the next look."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        job = claim_next(database, new_owner(), seconds)
        if job is not None:
            return job
    pytest.fail("no job could be taken for 30 s")


def _study(database: Engine, job: Job) -> optuna.Study:
    """The job's study, as one attempt sees it."""
    storage = open_storage(_url(database))
    fence(storage.engine, job.id, job.attempt)
    return open_study(storage, f"{job.name}-{job.created_at.timestamp()}", ["score"])


def test_a_zombie_can_neither_open_nor_tell_a_trial_and_its_successor_can(database: Engine) -> None:
    create_job(database, "job", {}, {}, "")
    zombie = _study(database, _taken(database, OVER))
    trial = open_point(zombie, {"x": 0.25}, SPACE, {"origin": "search"})
    heir = _study(database, _taken(database, 600.0))
    with pytest.raises(LeaseLost, match="attempt 1 lost it"):
        tell(zombie, trial.number, [0.5], attributes={"examples": 3})
    with pytest.raises(LeaseLost):
        open_point(zombie, {"x": 0.75}, SPACE, {"origin": "search"})
    (left,) = all_trials(heir)
    assert (left.state, left.user_attrs) == (optuna.trial.TrialState.RUNNING, {"origin": "search"})
    tell(heir, trial.number, [0.5])
    assert [one.values for one in all_trials(heir)] == [[0.5]]


def test_a_job_that_is_taken_over_between_two_writes_of_a_zombie_stays_its_successors(database: Engine) -> None:
    create_job(database, "job", {}, {}, "")
    held = _taken(database, OVER)
    study = _study(database, held)
    told = []

    def write() -> None:
        try:
            for number in range(10_000):
                open_point(study, {"x": 0.5}, SPACE, {"number": number})
        except LeaseLost:
            told.append(len(all_trials(study)))

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.3)
    heir = _taken(database, 600.0)
    found = len(all_trials(_study(database, heir)))
    writer.join(60)
    assert told
    assert len(all_trials(_study(database, heir))) == found


def test_a_lease_is_kept_while_the_work_does_something_long_and_lost_ones_are_told(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.lease.RENEW_SECONDS", 0.1)
    monkeypatch.setattr("optimizer.lease.LEASE_SECONDS", 1.0)
    create_job(database, "job", {}, {}, "")
    owner = new_owner()
    job = claim_next(database, owner, 1.0)
    assert job is not None
    lease = Lease(database, job, owner, threading.Event())
    with lease.held():
        time.sleep(2.0)  # an engine that is asked
        lease.check()
        assert claim_next(database, new_owner(), 1.0) is None
    time.sleep(1.3)
    late = Lease(database, job, owner, threading.Event())
    assert claim_next(database, new_owner(), 600.0) is not None
    with late.held():
        time.sleep(0.5)
        with pytest.raises(LeaseLost, match="taken over"):
            late.check()


def test_a_request_reaches_the_work_and_a_silent_process_loses_its_lease(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.lease.RENEW_SECONDS", 0.1)
    monkeypatch.setattr("optimizer.lease.LEASE_SECONDS", 0.5)
    create_job(database, "job", {}, {}, "")
    owner = new_owner()
    job = claim_next(database, owner, 600.0)
    assert job is not None
    with Lease(database, job, owner, threading.Event()).held() as lease:
        request_cancel(database, "job")
        time.sleep(0.5)
        with pytest.raises(Interrupted, match="cancel"):
            lease.check()
    monkeypatch.setattr("optimizer.lease.SILENT_SECONDS", 0.3)
    with Lease(database, job, owner, threading.Event()).held():
        time.sleep(1.5)
        assert claim_next(database, new_owner(), 600.0) is not None


def test_reading_is_never_fenced(database: Engine) -> None:
    create_job(database, "job", {}, {}, "")
    study = _study(database, _taken(database, OVER))
    _taken(database, 600.0)
    assert all_trials(study) == []
    with connect(_url(database)).connect() as connection:
        assert connection.closed is False
