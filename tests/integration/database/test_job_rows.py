"""A job's life: queued, claimed, held by a lease, ended."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.exc import IntegrityError

from optimizer.errors import InputError
from optimizer.examples import LedgerEntry, read_ledger
from optimizer.jobs import Job, LeaseLost, claim, create_job, finish, get_job, release, renew
from optimizer.owners import new_owner
from optimizer.queue import claim_next, list_jobs
from optimizer.requests import request_cancel, requeue
from optimizer.tables import jobs

LONG = 600.0
OVER = -1.0  # a lease that has run out as soon as it is given


def _job(database: Engine, name: str = "demo") -> Job:
    return create_job(database, name, {"method": "ties"}, {"groups": [[0, "mlp"]]}, f"out/{name}", "ada")


def _elsewhere() -> str:
    return "another-machine:1:abc"


def _claimed(database: Engine, seconds: float = LONG, name: str = "demo") -> Job:
    _job(database, name)
    return claim(database, name, _elsewhere(), seconds)


def test_a_submitted_job_is_queued_with_all_it_was_given(database: Engine) -> None:
    job = _job(database)
    assert (job.name, job.spec, job.plan) == ("demo", {"method": "ties"}, {"groups": [[0, "mlp"]]})
    assert (job.state, job.attempt, job.folder, job.submitted_by) == ("queued", 0, "out/demo", "ada")
    assert abs(job.created_at - datetime.now(UTC)) < timedelta(seconds=5)
    assert get_job(database, "demo") == get_job(database, job.id) == get_job(database, str(job.id)) == job


def test_a_job_and_its_examples_are_submitted_together_or_not_at_all(database: Engine) -> None:
    entries = [LedgerEntry("t:1", "t", "search"), LedgerEntry("t:2", "t", "test")]
    job = create_job(database, "demo", {}, {}, "", examples=entries)
    assert read_ledger(database, job.id) == entries
    with pytest.raises(ValueError, match="'t:1' is at 0 and 2"):
        create_job(database, "other", {}, {}, "", examples=[*entries, entries[0]])
    assert [job.name for job in list_jobs(database)] == ["demo"]


def test_a_name_that_is_taken_is_refused_with_what_to_do(database: Engine) -> None:
    first = _job(database)
    with pytest.raises(InputError, match=r"another with --name.*mergeopt resume demo"):
        create_job(database, "demo", {}, {}, "elsewhere")
    assert [job.id for job in list_jobs(database)] == [first.id]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00b"])
def test_a_name_no_database_could_keep_is_refused(database: Engine, name: str) -> None:
    with pytest.raises(InputError, match="1 to 200 characters"):
        create_job(database, name, {}, {}, "")


def test_an_unknown_name_is_answered_with_the_nearest_and_all_others(database: Engine) -> None:
    with pytest.raises(InputError, match="mergeopt submit"):
        get_job(database, "demo")
    for name in ("demo", "llama-math", "7"):
        _job(database, name)
    with pytest.raises(InputError, match=r"'lama-math'. Did you mean 'llama-math'\?.*7, llama-math, demo"):
        get_job(database, "lama-math")
    assert get_job(database, "7").name == "7"


def test_an_abandoned_job_is_claimed_before_the_queue_and_of_that_the_oldest_first(
    database: Engine,
) -> None:
    for name in ("abandoned", "first", "second"):
        _job(database, name)
    claim(database, "abandoned", _elsewhere(), OVER)
    taken = [claim_next(database, new_owner(), LONG) for _ in range(4)]
    assert [job.name if job else None for job in taken] == ["abandoned", "first", "second", None]
    assert [job.attempt for job in taken if job] == [2, 1, 1]


def test_a_claim_holds_the_job_until_its_lease_runs_out(database: Engine) -> None:
    held = _claimed(database, seconds=30.0)
    assert held.state == "running"
    assert held.lease_until == pytest.approx(time.time() + 30, abs=5)
    with pytest.raises(InputError, match=r"another-machine:1:abc \(attempt 1\).*mergeopt pause demo.*in (2\d|30) s"):
        claim(database, "demo", new_owner(), LONG)
    assert claim_next(database, new_owner(), LONG) is None
    assert renew(database, held.id, _elsewhere(), held.attempt, OVER)
    assert claim(database, "demo", new_owner(), LONG).attempt == 2


def test_a_job_whose_process_was_killed_here_is_resumed_without_waiting(database: Engine) -> None:
    _job(database)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host, _, unique = new_owner().split(":")
    claim(database, "demo", f"{host}:{process.pid}:{unique}", LONG)
    with pytest.raises(InputError, match="Only one process"):
        claim(database, "demo", new_owner(), LONG)
    os.kill(process.pid, 9)
    process.wait()
    assert claim(database, "demo", new_owner(), LONG).attempt == 2


@pytest.mark.parametrize("way", ["interrupted", "failed"])
def test_a_job_that_stopped_can_be_claimed_again(database: Engine, way: str) -> None:
    job = _claimed(database)
    if way == "failed":
        finish(database, job.id, job.attempt, "failed", error="no worker could start")
    else:
        release(database, job.id, job.attempt)
    again = claim(database, "demo", new_owner(), LONG)
    assert (again.state, again.attempt, again.error, again.finished_at) == ("running", 2, None, None)
    assert again.started_at == job.started_at


def test_a_job_that_is_done_is_never_run_again(database: Engine) -> None:
    job = _claimed(database)
    done = finish(database, job.id, job.attempt, "done", result={"best": 0.75})
    assert (done.state, done.result, done.owner) == ("done", {"best": 0.75}, None)
    assert done.finished_at is not None
    assert done.started_at is not None
    assert done.finished_at >= done.started_at
    with pytest.raises(InputError, match="'demo' is done"):
        claim(database, "demo", new_owner(), LONG)
    for again in (requeue, request_cancel):
        with pytest.raises(InputError, match="'demo' is done"):
            again(database, "demo")
    assert claim_next(database, new_owner(), LONG) is None


def test_the_holder_may_end_a_job_twice_but_not_change_its_mind(database: Engine) -> None:
    job = _claimed(database)
    once = finish(database, job.id, job.attempt, "done", result={"best": 1})
    assert finish(database, job.id, job.attempt, "done", result={"best": 2}) == once
    with pytest.raises(LeaseLost, match="is done at attempt 1"):
        finish(database, job.id, job.attempt, "failed", error="late")
    with pytest.raises(LeaseLost):
        release(database, job.id, job.attempt)


def test_a_holder_that_slept_through_its_lease_goes_on_if_nobody_took_over(database: Engine) -> None:
    job = _claimed(database, OVER)
    assert renew(database, job.id, _elsewhere(), job.attempt, LONG)
    assert finish(database, job.id, job.attempt, "done").state == "done"


def test_a_holder_that_was_replaced_can_neither_renew_nor_end_the_job(database: Engine) -> None:
    zombie = _claimed(database, OVER)
    heir = claim_next(database, new_owner(), LONG)
    assert heir is not None
    assert heir.attempt == zombie.attempt + 1
    assert not renew(database, zombie.id, _elsewhere(), zombie.attempt, LONG)
    for end in (
        lambda: finish(database, zombie.id, zombie.attempt, "done"),
        lambda: release(database, zombie.id, 1),
    ):
        with pytest.raises(LeaseLost, match="attempt 1 lost it: the job is running at attempt 2"):
            end()
    assert get_job(database, "demo") == heir


def test_a_queued_job_is_cancelled_at_once_and_a_resume_puts_it_back(database: Engine) -> None:
    _job(database)
    assert request_cancel(database, "demo").state == "cancelled"
    assert request_cancel(database, "demo").state == "cancelled"
    assert claim_next(database, new_owner(), LONG) is None
    with pytest.raises(InputError, match="mergeopt resume demo"):
        claim(database, "demo", new_owner(), LONG)
    assert requeue(database, "demo").state == "queued"
    assert claim_next(database, new_owner(), LONG) is not None


def test_a_running_job_is_asked_to_stop_and_its_holder_ends_it(database: Engine) -> None:
    job = _claimed(database)
    assert get_job(database, "demo").request is None
    asked = request_cancel(database, "demo")
    assert (asked.state, asked.owner) == ("running", job.owner)
    assert get_job(database, "demo").request == "cancel"
    assert finish(database, job.id, job.attempt, "cancelled").state == "cancelled"


def test_a_request_to_cancel_reaches_the_next_holder_too(database: Engine) -> None:
    job = _claimed(database)
    request_cancel(database, "demo")
    renew(database, job.id, _elsewhere(), job.attempt, OVER)
    heir = claim_next(database, new_owner(), LONG)
    assert heir is not None
    assert heir.request == "cancel"
    assert release(database, heir.id, heir.attempt).state == "cancelled"


def test_a_job_nobody_holds_any_more_is_cancelled_at_once(database: Engine) -> None:
    _claimed(database, OVER)
    assert request_cancel(database, "demo").state == "cancelled"


def test_a_resumed_job_is_queued_again_unless_someone_holds_it(database: Engine) -> None:
    job = _claimed(database)
    with pytest.raises(InputError, match="Only one process"):
        requeue(database, "demo")
    release(database, job.id, job.attempt, error="interrupted by ctrl-C")
    assert get_job(database, "demo").error == "interrupted by ctrl-C"
    again = requeue(database, "demo")
    assert (again.state, again.error) == ("queued", None)
    assert requeue(database, "demo") == again
    with pytest.raises(LeaseLost, match="is queued at attempt 1"):
        finish(database, job.id, job.attempt, "done")


def test_any_error_text_can_be_kept(database: Engine) -> None:
    job = _claimed(database)
    failed = finish(database, job.id, job.attempt, "failed", error="bad byte \x00, half a pair \udc80, héé 模型")
    assert failed.error == "bad byte \\x00, half a pair \\udc80, héé 模型"


def test_an_error_that_quotes_a_url_is_kept_without_its_password(database: Engine) -> None:
    job = _claimed(database)
    failed = finish(database, job.id, job.attempt, "failed", error="cannot reach postgresql://ada:secret99@host/jobs")
    assert failed.error == "cannot reach postgresql://ada:***@host/jobs"


def test_a_state_no_code_knows_cannot_be_stored(database: Engine) -> None:
    _job(database)
    with pytest.raises(IntegrityError), database.begin() as connection:
        connection.execute(update(jobs).values(state="asleep"))


def test_jobs_are_listed_in_order_and_by_state(database: Engine) -> None:
    for name in ("a", "b", "c"):
        _job(database, name)
    claim(database, "b", _elsewhere(), LONG)
    assert [job.name for job in list_jobs(database)] == ["a", "b", "c"]
    assert [job.name for job in list_jobs(database, "queued")] == ["a", "c"]
