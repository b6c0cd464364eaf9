"""Gradients as they stand in the database: every bit, every group in its order, each shard once."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from optimizer.database import open_database
from optimizer.gradients import read_gradients, record_gradient
from optimizer.jobs import LeaseLost, claim, create_job, finish


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(str(tmp_path / "mergeopt.db"))
    yield engine
    engine.dispose()


def held(database: Engine, name: str = "demo") -> tuple[int, int]:
    create_job(database, name, {}, {}, "")
    job = claim(database, name, "another-machine:1:abc", 600.0)
    return job.id, job.attempt


def record(
    database: Engine,
    job: tuple[int, int],
    number: int = 0,
    shard: int = 0,
    losses: tuple[float, ...] = (0.5, 1.5),
    rows: dict[str, tuple[float, ...]] | None = None,
) -> bool:
    return record_gradient(
        database,
        *job,
        number=number,
        shard=shard,
        digest="d" * 16,
        positions=list(range(len(losses))),
        losses=losses,
        rows=rows or {"head": (1.0, 2.0)},
        seconds=1.5,
        worker="w0",
    )


def test_numbers_of_any_size_keep_all_their_bits(database: Engine) -> None:
    job = held(database)
    numbers = (1 / 3, -1e-300, 5e-324, 1.7976931348623157e308, -0.0, 0.1 + 0.2, math.pi * 1e-17)
    assert record(database, job, losses=numbers, rows={"head": numbers})
    (found,) = read_gradients(database, job[0])
    assert [value.hex() for value in found.losses] == [value.hex() for value in numbers]
    assert [value.hex() for value in found.rows["head"]] == [value.hex() for value in numbers]


def test_groups_come_back_in_the_order_of_the_recipe(database: Engine) -> None:
    job = held(database)
    names = ["norms", "layer.10.mlp", "layer.2.mlp", "embeddings", "attention"]
    record(database, job, rows={name: (float(number),) for number, name in enumerate(names)})
    (found,) = read_gradients(database, job[0])
    assert list(found.rows) == names


def test_batches_and_shards_are_read_in_order_however_they_came(database: Engine) -> None:
    job = held(database)
    for number, shard in ((1, 1), (0, 0), (10, 0), (1, 0), (2, 0)):
        assert record(database, job, number, shard)
    found = [(one.number, one.shard) for one in read_gradients(database, job[0])]
    assert found == [(0, 0), (1, 0), (1, 1), (2, 0), (10, 0)]


def test_a_second_answer_to_the_same_shard_changes_nothing(database: Engine) -> None:
    job = held(database)
    assert record(database, job, losses=(1.0,))
    assert not record(database, job, losses=(2.0,))
    assert [one.losses for one in read_gradients(database, job[0])] == [(1.0,)]


def test_jobs_do_not_see_one_anothers_gradients(database: Engine) -> None:
    one, other = held(database, "one"), held(database, "other")
    assert record(database, one, losses=(1.0,))
    assert record(database, other, losses=(2.0,))
    assert [found.losses for found in read_gradients(database, other[0])] == [(2.0,)]


def test_a_job_that_has_ended_records_no_gradient(database: Engine) -> None:
    job = held(database)
    finish(database, *job, "done")
    with pytest.raises(LeaseLost, match="is done"):
        record(database, job)
    assert read_gradients(database, job[0]) == []
