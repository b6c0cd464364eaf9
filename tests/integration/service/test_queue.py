"""Which job comes next: by priority, then by who has least, within limits; and what people ask of jobs."""

import threading

import pytest
from sqlalchemy import Engine, update

from optimizer.audit import deeds
from optimizer.errors import InputError
from optimizer.jobs import Job, claim, create_job, find_job, finish, get_job, record_death, release, renew
from optimizer.limits import Limit, all_limits, set_limit
from optimizer.owners import new_owner
from optimizer.queue import claim_next, count_jobs, list_jobs
from optimizer.requests import change, request_pause, requeue, retry
from optimizer.tables import jobs

LONG = 600.0
OVER = -1.0


def _submit(database: Engine, name: str, user: str = "ada", priority: int = 0, served: bool = True) -> Job:
    return create_job(database, name, {}, {}, "", user, priority=priority, served=served)


def _next(database: Engine, seconds: float = LONG) -> str | None:
    job = claim_next(database, "another-machine:1:abc", seconds)
    return None if job is None else job.name


def test_higher_priority_comes_first_and_can_be_changed_while_a_job_waits(database: Engine) -> None:
    for name, priority in (("low", -1), ("usual", 0), ("high", 5), ("late", 0)):
        _submit(database, name, priority=priority)
    change(database, "late", priority=9, workers=None)
    assert [_next(database) for _ in range(5)] == ["late", "high", "usual", "low", None]


def test_whoever_submits_many_jobs_does_not_keep_others_waiting(database: Engine) -> None:
    for name in ("a1", "a2", "a3"):
        _submit(database, name)
    _submit(database, "b1", user="bob")
    assert [_next(database) for _ in range(4)] == ["a1", "b1", "a2", "a3"]


def test_no_more_jobs_of_a_user_run_than_their_limit(database: Engine) -> None:
    set_limit(database, "ada", workers=None, jobs=1)
    set_limit(database, "*", workers=None, jobs=2)
    for name, user in (("a1", "ada"), ("a2", "ada"), ("b1", "bob"), ("b2", "bob"), ("b3", "bob")):
        _submit(database, name, user)
    assert [_next(database) for _ in range(4)] == ["a1", "b1", "b2", None]
    done = get_job(database, "a1")
    finish(database, done.id, done.attempt, "done")
    assert [_next(database) for _ in range(2)] == ["a2", None]
    set_limit(database, "*", workers=None, jobs=None)
    assert _next(database) == "b3"
    assert [limit.user for limit in all_limits(database)] == ["ada"]


def test_a_limit_that_is_not_named_stays_as_it_was(database: Engine) -> None:
    set_limit(database, "ada", workers=8, jobs=None, keep=True)
    set_limit(database, "ada", workers=None, jobs=2, keep=True)
    assert set_limit(database, "ada", workers=4, jobs=None, keep=True) == Limit("ada", 4, 2)
    assert all_limits(database) == [Limit("ada", 4, 2)]
    set_limit(database, "ada", workers=None, jobs=2)
    assert all_limits(database) == [Limit("ada", None, 2)]


def test_nobody_without_limits_of_their_own_runs_anything_where_everybody_elses_is_zero(database: Engine) -> None:
    set_limit(database, "*", workers=None, jobs=0)
    _submit(database, "b1", user="bob")
    _submit(database, "a1")
    assert _next(database) is None
    set_limit(database, "ada", workers=4, jobs=None)
    assert [_next(database) for _ in range(2)] == ["a1", None]


def test_limits_hold_however_many_controllers_claim_at_once(database: Engine) -> None:
    set_limit(database, "ada", workers=None, jobs=3)
    for number in range(12):
        _submit(database, f"job-{number}")
    taken: list[str | None] = []
    controllers = [threading.Thread(target=lambda: taken.extend(_next(database) for _ in range(2))) for _ in range(6)]
    for controller in controllers:
        controller.start()
    for controller in controllers:
        controller.join()
    assert len([name for name in taken if name]) == len({name for name in taken if name}) == 3


@pytest.mark.parametrize(("workers", "most"), [(0, None), (None, -1)])
def test_a_limit_that_makes_no_sense_is_refused(database: Engine, workers: int | None, most: int | None) -> None:
    with pytest.raises(InputError, match="or more, but is"):
        set_limit(database, "ada", workers, most)


def test_a_job_that_is_carried_out_by_hand_is_none_of_a_controllers(database: Engine) -> None:
    _submit(database, "mine", served=False)
    assert _next(database) is None
    claim(database, "mine", "another-machine:1:abc", OVER)
    assert _next(database) is None
    requeue(database, "mine", served=True)
    assert _next(database) == "mine"


def test_holders_get_time_to_renew_where_the_database_was_away(database: Engine) -> None:
    _submit(database, "held")
    assert _next(database, OVER) == "held"
    assert claim_next(database, new_owner(), LONG, abandoned=False) is None
    assert renew(database, get_job(database, "held").id, "another-machine:1:abc", 1, LONG) is not None
    assert claim_next(database, new_owner(), LONG) is None


def test_a_job_that_died_rests_before_it_is_taken_again(database: Engine) -> None:
    job = _submit(database, "unlucky")
    assert _next(database) == "unlucky"
    died = record_death(database, job.id, 1, "killed", pause=LONG)
    assert (died.state, died.deaths, died.error) == ("queued", 1, "killed")
    assert _next(database) is None
    with database.begin() as connection:
        connection.execute(update(jobs).values(not_before=1.0))
    assert _next(database) == "unlucky"
    assert get_job(database, "unlucky").deaths == 1
    assert requeue_after_failure(database, job).deaths == 0


def requeue_after_failure(database: Engine, job: Job) -> Job:
    """A person has looked at it."""
    finish(database, job.id, 2, "failed", error="no")
    return retry(database, "unlucky")


def test_a_lease_that_ran_out_counts_as_a_death_unless_something_was_recorded(database: Engine) -> None:
    _submit(database, "job")
    for deaths in range(3):
        taken = claim_next(database, new_owner(), OVER)
        assert taken is not None
        assert taken.deaths == deaths
    _record(database, taken)
    again = claim_next(database, new_owner(), OVER)
    assert again is not None
    assert again.deaths == 0


def _record(database: Engine, job: Job) -> None:
    import numpy as np

    from optimizer.outcomes import Columns, record_outcomes

    columns = Columns(np.arange(2, dtype=np.int32), np.ones(2))
    told = {"trial": 0, "split": "search", "round": 0, "digest": "d", "seconds": 0.0, "worker": "w"}
    record_outcomes(database, job.id, job.attempt, columns=columns, **told)  # type: ignore[arg-type]


def test_a_paused_job_stays_so_until_it_is_resumed(database: Engine) -> None:
    job = _submit(database, "job")
    assert request_pause(database, "job").state == "paused"
    assert _next(database) is None
    with pytest.raises(InputError, match="mergeopt resume job"):
        claim(database, "job", new_owner(), LONG)
    requeue(database, "job")
    assert _next(database) == "job"
    asked = request_pause(database, "job")
    assert (asked.state, asked.request) == ("running", "pause")
    assert release(database, job.id, 1, state="queued").state == "paused"


def test_only_what_failed_is_retried_and_only_what_has_not_ended_is_changed(database: Engine) -> None:
    job = _submit(database, "job")
    with pytest.raises(InputError, match=r"must have failed.*is queued.*mergeopt resume job --here"):
        retry(database, "job")
    _next(database)
    with pytest.raises(InputError, match=r"must have failed.*is running.*mergeopt pause job"):
        retry(database, "job")
    finish(database, job.id, 1, "failed", error="no")
    for refused in (lambda: change(database, "job", 1, None), lambda: request_pause(database, "job")):
        with pytest.raises(InputError, match=r"must not have ended.*is failed.*mergeopt retry job"):
            refused()
    assert retry(database, "job").state == "queued"


def test_what_is_done_is_neither_retried_nor_changed_but_reported_or_searched_again(database: Engine) -> None:
    job = _submit(database, "job")
    _next(database)
    finish(database, job.id, 1, "done")
    for refused in (lambda: retry(database, "job"), lambda: change(database, "job", 1, None)):
        with pytest.raises(InputError, match=r"is done\..*mergeopt report job.*mergeopt export job.*--name") as refusal:
            refused()
        assert "resume" not in str(refusal.value)


def test_a_controller_that_is_stopped_gives_its_job_back_to_the_queue(database: Engine) -> None:
    job = _submit(database, "job")
    _next(database)
    assert release(database, job.id, 1, state="queued").state == "queued"
    assert (_next(database), get_job(database, "job").deaths) == ("job", 0)


def test_every_deed_is_written_down_with_who_did_it(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEOPT_USER", "ada")
    job = _submit(database, "job", priority=2)
    monkeypatch.setenv("MERGEOPT_USER", "bob")
    _next(database)
    request_pause(database, "job")
    release(database, job.id, 1)
    set_limit(database, "eve", workers=1, jobs=None)
    found = [(deed.who, deed.action, deed.job) for deed in deeds(database)]
    assert found == [
        ("ada", "submitted", "job"),
        ("bob", "taken", "job"),
        ("bob", "pause", "job"),
        ("bob", "paused", "job"),
        ("bob", "limited", None),
    ]
    assert [deed.action for deed in deeds(database, job.id, last=2)] == ["pause", "paused"]


def test_jobs_are_listed_by_state_user_and_number(database: Engine) -> None:
    for name, user in (("a", "ada"), ("b", "bob"), ("c", "ada")):
        _submit(database, name, user)
    _next(database)
    assert [job.name for job in list_jobs(database, user="ada")] == ["a", "c"]
    assert [job.name for job in list_jobs(database, "queued", last=1)] == ["c"]
    assert count_jobs(database) == {"queued": 2, "running": 1}
    (running,) = list_jobs(database, "running")
    assert running.lease_left == pytest.approx(LONG, abs=10)
    assert find_job(database, "nobody's") is None
