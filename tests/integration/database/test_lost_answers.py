"""A commit that succeeded but whose answer was lost is asked for again, and counts once."""

import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from optimizer.audit import deeds
from optimizer.events import count_events, log_event
from optimizer.examples import LedgerEntry, read_ledger, write_ledger
from optimizer.jobs import claim, create_job, finish, get_job, release, renew
from optimizer.outcomes import Columns, read_outcomes, record_outcomes
from optimizer.queue import claim_next, list_jobs

OWNER = "another-machine:1:abc"


class Line:
    """The line to the database. `break_after_commit()` breaks it once, right after the next commit."""

    def __init__(self) -> None:
        self.breaks = 0

    def break_after_commit(self) -> None:
        self.breaks = 1

    def commit(self, connection: Connection) -> None:
        if not self.breaks:
            return
        self.breaks -= 1
        driver = connection.connection.driver_connection
        assert driver is not None
        if isinstance(driver, sqlite3.Connection):
            driver.execute("COMMIT")
        else:
            driver.commit()
        raise OperationalError("COMMIT", {}, ConnectionError("the line broke"))


@pytest.fixture
def line(database: Engine) -> Iterator[Line]:
    line = Line()
    event.listen(database, "commit", line.commit)
    yield line
    event.remove(database, "commit", line.commit)


def test_a_job_is_submitted_once_with_its_examples(database: Engine, line: Line) -> None:
    line.break_after_commit()
    job = create_job(database, "demo", {}, {}, "", examples=[LedgerEntry("t:1", "t", "search")])
    assert line.breaks == 0
    assert [one.id for one in list_jobs(database)] == [job.id]
    assert [deed.action for deed in deeds(database)] == ["submitted"]
    assert len(read_ledger(database, job.id)) == 1


def test_a_process_that_claims_the_next_job_gets_one_job(database: Engine, line: Line) -> None:
    for name in ("first", "second"):
        create_job(database, name, {}, {}, "")
    line.break_after_commit()
    job = claim_next(database, OWNER, 600.0)
    assert job is not None
    assert (job.name, job.attempt) == ("first", 1)
    assert get_job(database, "second").state == "queued"


def test_a_process_that_claims_a_job_is_not_refused_by_its_own_claim(database: Engine, line: Line) -> None:
    create_job(database, "demo", {}, {}, "")
    line.break_after_commit()
    assert claim(database, "demo", OWNER, 600.0).attempt == 1


def test_an_outcome_is_recorded_once_and_still_called_new(database: Engine, line: Line) -> None:
    create_job(database, "demo", {}, {}, "")
    job = claim(database, "demo", OWNER, 600.0)
    line.break_after_commit()
    columns = Columns(np.arange(3, dtype=np.int32), np.ones(3))
    assert record_outcomes(
        database,
        job.id,
        job.attempt,
        trial=0,
        split="search",
        round=0,
        digest="d",
        columns=columns,
        seconds=0.0,
        worker="w",
    )
    assert line.breaks == 0
    assert len(read_outcomes(database, job.id)) == 1


@pytest.mark.parametrize("ending", ["finish", "release"])
def test_a_holder_that_ended_its_job_is_not_told_that_it_lost_it(database: Engine, line: Line, ending: str) -> None:
    create_job(database, "demo", {}, {}, "")
    job = claim(database, "demo", OWNER, 600.0)
    line.break_after_commit()
    if ending == "finish":
        assert finish(database, job.id, job.attempt, "done", result={"best": 1}).result == {"best": 1}
    else:
        assert release(database, job.id, job.attempt).state == "interrupted"
    assert line.breaks == 0


def test_a_lease_an_event_and_a_ledger_are_each_written_once(database: Engine, line: Line) -> None:
    create_job(database, "demo", {}, {}, "")
    job = claim(database, "demo", OWNER, 600.0)
    line.break_after_commit()
    assert renew(database, job.id, OWNER, job.attempt, 600.0)
    line.break_after_commit()
    log_event(database, job.id, "test opened")
    assert count_events(database, job.id, "test opened") == 1
    line.break_after_commit()
    write_ledger(database, job.id, [LedgerEntry("t:1", "t", "search")])
    assert len(read_ledger(database, job.id)) == 1
