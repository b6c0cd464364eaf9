"""Times in the database that are not to be believed: its clock was set back, or it was away for long."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from optimizer.database import open_database
from optimizer.jobs import create_job, get_job, record_death
from optimizer.owners import new_owner
from optimizer.queue import claim_next
from optimizer.tables import DatabaseClock, jobs

LEASE = 12.0
HOUR = 3600.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    here = open_database(str(tmp_path / "jobs.db"))
    create_job(here, "job", {}, {}, "", "ada")
    yield here
    here.dispose()


def _set_back(database: Engine, seconds: float) -> None:
    """Set the clock back: to whoever compares with it, every time it gave has moved on."""
    with database.begin() as connection:
        moved = {"lease_until": jobs.c.lease_until + seconds, "not_before": jobs.c.not_before + seconds}
        connection.execute(update(jobs).values(**moved))


def test_a_dead_holders_job_is_taken_though_the_clock_was_set_back_by_an_hour(database: Engine) -> None:
    assert claim_next(database, new_owner(), LEASE) is not None
    _set_back(database, HOUR)
    heir = claim_next(database, new_owner(), LEASE)
    assert heir is not None
    assert heir.attempt == 2


def test_a_resting_job_is_taken_though_the_clock_was_set_back_by_an_hour(database: Engine) -> None:
    first = claim_next(database, new_owner(), LEASE)
    assert first is not None
    record_death(database, first.id, first.attempt, "killed", pause=60.0)
    assert claim_next(database, new_owner(), LEASE) is None
    _set_back(database, HOUR)
    assert claim_next(database, new_owner(), LEASE) is not None


def test_a_holder_that_lives_keeps_its_job_when_the_clock_is_set_back_by_less_than_a_lease(database: Engine) -> None:
    assert claim_next(database, new_owner(), LEASE) is not None
    _set_back(database, 0.9 * LEASE)
    assert claim_next(database, new_owner(), LEASE) is None


def test_who_waited_for_the_database_takes_no_job_from_a_holder_who_waited_too(database: Engine) -> None:
    assert claim_next(database, new_owner(), LEASE) is not None
    with database.begin() as connection:
        connection.execute(update(jobs).values(lease_until=DatabaseClock() + 2.0))
    held, seconds = threading.Event(), LEASE / 2 + 1

    def hold() -> None:
        with sqlite3.connect(str(database.url.database), isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            held.set()
            time.sleep(seconds)
            other.execute("COMMIT")

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    assert claim_next(database, new_owner(), LEASE) is None
    holder.join()
    assert get_job(database, "job").attempt == 1
    assert claim_next(database, new_owner(), LEASE) is not None
