"""What a job records: each round once, by its holder, with the examples it was given."""

import numpy as np
import pytest
from sqlalchemy import Engine, update

from optimizer.errors import InputError
from optimizer.events import count_events, events, log_event
from optimizer.examples import LedgerEntry, read_ledger, write_ledger
from optimizer.jobs import LeaseLost, claim, create_job, finish
from optimizer.outcomes import Columns, read_outcomes, record_outcomes, scored_count
from optimizer.queue import claim_next
from optimizer.tables import outcomes


def _claimed(database: Engine, seconds: float = 600.0) -> tuple[int, int]:
    create_job(database, "demo", {}, {}, "")
    job = claim(database, "demo", "another-machine:1:abc", seconds)
    return job.id, job.attempt


def _record(
    database: Engine, held: tuple[int, int], trial: int = 0, split: str = "search", round: int = 0, n: int = 3
) -> bool:
    columns = Columns(np.arange(n, dtype=np.int32), np.linspace(0, 1, n), np.full(n, 0.3), None)
    return record_outcomes(
        database,
        *held,
        trial=trial,
        split=split,
        round=round,
        digest="d" * 16,
        columns=columns,
        seconds=1.5,
        worker="w0",
    )


def test_an_outcome_recorded_twice_counts_once(database: Engine) -> None:
    held = _claimed(database)
    assert _record(database, held)
    assert not _record(database, held, n=2)
    assert scored_count(database, held[0]) == {"search": 3}
    (only,) = read_outcomes(database, held[0])
    assert len(only.columns.metric) == 3


def test_what_was_recorded_is_read_back_in_order(database: Engine) -> None:
    held = _claimed(database)
    for trial, split, round in ((1, "search", 0), (0, "test", 0), (0, "search", 1), (0, "search", 0)):
        assert _record(database, held, trial, split, round)
    found = read_outcomes(database, held[0])
    assert [(row.trial, row.split, row.round) for row in found] == [
        (0, "search", 0),
        (0, "search", 1),
        (0, "test", 0),
        (1, "search", 0),
    ]
    assert [row.round for row in read_outcomes(database, held[0], trial=0, split="search")] == [0, 1]
    assert [row.trial for row in read_outcomes(database, held[0], split="test")] == [0]
    assert scored_count(database, held[0]) == {"search": 9, "test": 3}
    first = found[0]
    assert (first.attempt, first.digest, first.seconds, first.worker) == (1, "d" * 16, 1.5, "w0")
    np.testing.assert_array_equal(first.columns.positions, [0, 1, 2])
    np.testing.assert_array_equal(first.columns.metric, [0.0, 0.5, 1.0])
    np.testing.assert_array_equal(first.columns.smooth, [0.3, 0.3, 0.3])
    assert np.isnan(first.columns.loglikelihood).all()  # type: ignore[arg-type]


def test_a_zombie_whose_job_was_taken_over_cannot_record(database: Engine) -> None:
    zombie = _claimed(database, seconds=-1.0)
    assert _record(database, zombie, round=0)
    heir = claim_next(database, "a-third-machine:1:abc", 600.0)
    assert heir is not None
    with pytest.raises(LeaseLost, match="attempt 1 lost it"):
        _record(database, zombie, round=1)
    assert _record(database, (heir.id, heir.attempt), round=1)
    assert [row.attempt for row in read_outcomes(database, heir.id)] == [1, 2]


def test_nothing_is_recorded_for_a_job_that_has_ended(database: Engine) -> None:
    held = _claimed(database)
    finish(database, *held, "done")
    with pytest.raises(LeaseLost, match="is done"):
        _record(database, held)
    assert read_outcomes(database, held[0]) == []


def test_a_damaged_blob_is_noticed(database: Engine) -> None:
    held = _claimed(database)
    _record(database, held)
    with database.begin() as connection:
        connection.execute(update(outcomes).values(blob=b"\x00" * 28))
    with pytest.raises(ValueError, match=r"trial 0 \(search, round 0\) must be 3 records"):
        read_outcomes(database, held[0])


def test_the_ledger_is_written_once_and_keeps_its_order(database: Engine) -> None:
    job_id, _ = _claimed(database)
    entries = [LedgerEntry(f"t:{i * 7919 % 500}", "t", "search") for i in range(500)]
    assert read_ledger(database, job_id) == []
    write_ledger(database, job_id, entries)
    write_ledger(database, job_id, entries)
    assert read_ledger(database, job_id) == entries
    with pytest.raises(InputError, match=r"has 500 and was given 499 that differ"):
        write_ledger(database, job_id, entries[1:])
    assert read_ledger(database, job_id) == entries


def test_events_are_kept_in_order_and_counted(database: Engine) -> None:
    job_id, _ = _claimed(database)
    log_event(database, job_id, "test opened", {"trial": 7})
    log_event(database, job_id, "note")
    log_event(database, job_id, "test opened", {"trial": 9})
    assert [event.data for event in events(database, job_id, "test opened")] == [{"trial": 7}, {"trial": 9}]
    assert [event.kind for event in events(database, job_id)] == ["test opened", "note", "test opened"]
    assert count_events(database, job_id, "test opened") == 2
    assert events(database, job_id)[0].at.tzinfo is not None
