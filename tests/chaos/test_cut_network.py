"""A coordinator is cut off from PostgreSQL in the middle of a write: the job goes on without it."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine, event, make_url, text

from optimizer.database import connect, open_database
from optimizer.jobs import Job, LeaseLost, create_job
from optimizer.lease import LEASE_SECONDS
from optimizer.outcomes import Columns, read_outcomes, record_outcomes
from optimizer.owners import new_owner
from optimizer.queue import claim_next
from tests.chaos.proxy import Proxy
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    here = PostgresServer()
    yield here
    here.close()


def _record(engine: Engine, job: Job) -> bool:
    columns = Columns(np.array([0], np.int32), np.array([1.0]))
    round_of = {"trial": 0, "split": "search", "round": 0, "digest": "d", "seconds": 1.0, "worker": "w"}
    return record_outcomes(engine, job.id, job.attempt, columns=columns, **round_of)


def test_a_transaction_that_stands_still_ends_before_the_lease_does(server: PostgresServer) -> None:
    with connect(server.new_database()).connect() as connection:
        milliseconds = connection.scalar(
            text("SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'")
        )
    assert 0 < milliseconds < LEASE_SECONDS * 1000


def test_a_job_whose_coordinator_is_cut_off_in_the_middle_of_a_write_goes_on_elsewhere(server: PostgresServer) -> None:
    url = server.new_database()
    here, proxy = open_database(url), Proxy(server.port)
    away = connect(make_url(proxy.url(url)).update_query_dict({"options": "-c idle_in_transaction_session_timeout=1s"}))
    create_job(here, "job", {}, {}, "", "ada")
    first = claim_next(here, new_owner(), 0.5)
    assert first is not None
    held, refused = threading.Event(), list[LeaseLost]()

    @event.listens_for(away, "commit")
    def on_commit(_connection: object) -> None:
        if not held.is_set():
            proxy.hold()
            held.set()

    def write() -> None:
        try:
            _record(away, first)
        except LeaseLost as error:
            refused.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert held.wait(10)
        deadline, heir = time.monotonic() + 20, None
        while heir is None and time.monotonic() < deadline:
            heir = claim_next(here, new_owner(), 60.0)
            time.sleep(0.1)
        assert heir is not None, "the job is still locked by a transaction that nobody will end"
        assert _record(here, heir)
    finally:
        proxy.mend()
        writer.join(timeout=30)
        proxy.close()
    assert len(refused) == 1
    assert [row.attempt for row in read_outcomes(here, first.id)] == [heir.attempt]
