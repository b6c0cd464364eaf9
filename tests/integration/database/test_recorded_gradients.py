"""Gradients of the coefficients: each shard once, by the job's holder, with all the bits it was computed with."""

import math

import pytest
from sqlalchemy import Engine

from optimizer.gradients import gradient_looks, read_gradients, record_gradient
from optimizer.jobs import LeaseLost, claim, create_job
from optimizer.queue import claim_next

ROWS = {"layer.0.mlp": [0.1, -1e-17, 1 / 3], "head": [math.pi, 0.0, 5e-324]}


def _claimed(database: Engine, seconds: float = 600.0) -> tuple[int, int]:
    create_job(database, "demo", {}, {}, "")
    job = claim(database, "demo", "another-machine:1:abc", seconds)
    return job.id, job.attempt


def _record(database: Engine, held: tuple[int, int], number: int = 0, shard: int = 0, n: int = 2) -> bool:
    return record_gradient(
        database,
        *held,
        number=number,
        shard=shard,
        digest="d" * 16,
        positions=range(n),
        losses=[1 / 7] * n,
        rows=ROWS,
        seconds=0.5,
        worker="w0",
    )


def test_a_gradient_is_read_back_bit_by_bit_and_in_order(database: Engine) -> None:
    held = _claimed(database)
    for number, shard in ((1, 0), (0, 1), (0, 0)):
        assert _record(database, held, number, shard)
    found = read_gradients(database, held[0])
    assert [(one.number, one.shard) for one in found] == [(0, 0), (0, 1), (1, 0)]
    first = found[0]
    assert first.rows == {group: tuple(row) for group, row in ROWS.items()}
    assert list(first.rows) == list(ROWS)
    assert first.losses == (1 / 7, 1 / 7)
    assert (first.positions, first.attempt, first.digest, first.worker) == ((0, 1), 1, "d" * 16, "w0")


def test_a_shard_recorded_twice_counts_once(database: Engine) -> None:
    held = _claimed(database)
    assert _record(database, held)
    assert not _record(database, held, n=5)
    (only,) = read_gradients(database, held[0])
    assert only.positions == (0, 1)


def test_a_zombie_whose_job_was_taken_over_cannot_record_a_gradient(database: Engine) -> None:
    zombie = _claimed(database, seconds=-1.0)
    assert _record(database, zombie)
    heir = claim_next(database, "a-third-machine:1:abc", 600.0)
    assert heir is not None
    with pytest.raises(LeaseLost, match="attempt 1 lost it"):
        _record(database, zombie, number=1)
    assert [one.attempt for one in read_gradients(database, heir.id)] == [1]


def test_looks_count_batches_shards_and_examples(database: Engine) -> None:
    held = _claimed(database)
    assert gradient_looks(database, held[0]) is None
    for number, shard, n in ((0, 0, 3), (0, 1, 2), (1, 0, 5)):
        _record(database, held, number, shard, n)
    found = gradient_looks(database, held[0])
    assert found is not None
    assert (found.by, found.rounds, found.examples) == (2, 3, 10)
    assert found.first <= found.last
