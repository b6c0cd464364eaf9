"""The outcomes of every round, example by example: recorded exactly once, by the holder of the job."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlalchemy import Engine, Row, Select, func, select

from optimizer.database import retrying
from optimizer.jobs import record_once
from optimizer.tables import outcomes

# The blob: one record of 28 bytes per example, little-endian, in the order they were scored. Numbers keep all
# their bits, so that a search that reads them back after a crash computes what it would have computed without
# one.
RECORD = np.dtype([("position", "<i4"), ("metric", "<f8"), ("smooth", "<f8"), ("loglikelihood", "<f8")])


@dataclass(frozen=True, eq=False)
class Columns:
    """Outcomes as columns of length n.

    `positions` int32: the examples' positions in the job's ledger, distinct. `metric` float64, finite.
    `smooth` float64, in [0, 1], and `loglikelihood` float64, in nats: NaN where the task has none; None
    stands for all NaN and is read back as such.
    """

    positions: NDArray[np.int32]
    metric: NDArray[np.float64]
    smooth: NDArray[np.float64] | None = None
    loglikelihood: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Recorded:
    """One round of one trial as it stands in the database.

    `attempt` is the claim it was recorded under, `digest` the recipe's, `seconds` the time it took on
    `worker`.
    """

    trial: int
    split: str
    round: int
    attempt: int
    digest: str
    columns: Columns
    seconds: float
    worker: str
    created_at: datetime


def pack(columns: Columns) -> bytes:
    """The columns as `RECORD`s. Raises `ValueError` unless each example has one finite metric."""
    n = len(columns.positions)
    table = np.empty(n, RECORD)
    table["position"] = columns.positions
    table["metric"] = _column("metric", columns.metric, n)
    table["smooth"] = _column("smooth", columns.smooth, n)
    table["loglikelihood"] = _column("loglikelihood", columns.loglikelihood, n)
    if n and (table["position"].min() < 0 or len(np.unique(table["position"])) < n):
        raise ValueError(f"Positions must be distinct and not negative, but are {table['position'].tolist()}.")
    bad = np.flatnonzero(~np.isfinite(table["metric"]))
    if len(bad):
        at, value = int(table["position"][bad[0]]), float(table["metric"][bad[0]])
        raise ValueError(f"A metric must be finite, but the example at position {at} has {value}; leave it out.")
    return table.tobytes()


def _column(name: str, values: NDArray[np.float64] | None, n: int) -> ArrayLike:
    if values is None:
        return np.nan
    if np.shape(values) != (n,):
        raise ValueError(f"`{name}` must have one number per example, but has {np.shape(values)} for {n}.")
    return values


def unpack(blob: bytes) -> Columns:
    """The columns of a blob made by `pack`, bit by bit as they were."""
    table = np.frombuffer(blob, RECORD)
    return Columns(
        positions=table["position"].astype(np.int32),
        metric=table["metric"].astype(np.float64),
        smooth=table["smooth"].astype(np.float64),
        loglikelihood=table["loglikelihood"].astype(np.float64),
    )


def record_outcomes(
    engine: Engine,
    job_id: int,
    attempt: int,
    *,
    trial: int,
    split: str,
    round: int,
    digest: str,
    columns: Columns,
    seconds: float,
    worker: str,
) -> bool:
    """Record one round of one trial; False where this trial, split and round is recorded already.

    Raises `LeaseLost`, and records nothing, where `attempt` does not hold the job any more.
    """
    row = {
        "job_id": job_id,
        "trial": trial,
        "split": split,
        "round": round,
        "attempt": attempt,
        "digest": digest,
        "n": len(columns.positions),
        "seconds": seconds,
        "worker": worker,
        "blob": pack(columns),
    }
    return record_once(engine, outcomes, row, ("job_id", "trial", "split", "round"), uuid.uuid4().hex)


@retrying
def read_outcomes(engine: Engine, job_id: int, trial: int | None = None, split: str | None = None) -> list[Recorded]:
    """What is recorded of a job, or of one trial or split of it, by trial, split and round."""
    chosen = select(outcomes).where(outcomes.c.job_id == job_id)
    if trial is not None:
        chosen = chosen.where(outcomes.c.trial == trial)
    if split is not None:
        chosen = chosen.where(outcomes.c.split == split)
    with engine.connect() as connection:
        rows = connection.execute(chosen.order_by(outcomes.c.trial, outcomes.c.split, outcomes.c.round))
        return [_recorded(row) for row in rows]


@retrying
def count_rounds(engine: Engine, job_id: int) -> dict[tuple[int, str], int]:
    """For every trial and split of a job, one more than the last recorded round. No blob is read."""
    columns = [outcomes.c.trial, outcomes.c.split]
    chosen: Select[Any] = select(*columns, func.max(outcomes.c.round)).where(outcomes.c.job_id == job_id)
    with engine.connect() as connection:
        return {(row[0], row[1]): row[2] + 1 for row in connection.execute(chosen.group_by(*columns))}


@retrying
def recorded_times(engine: Engine, job_id: int) -> list[tuple[int, float, datetime]]:
    """For every recorded round the attempt, the seconds it took and when it was recorded. No blob is read."""
    columns = [outcomes.c.attempt, outcomes.c.seconds, outcomes.c.created_at]
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(outcomes.c.job_id == job_id))
        return [(attempt, seconds, at) for attempt, seconds, at in rows]


@retrying
def scored_count(engine: Engine, job_id: int) -> dict[str, int]:
    """How many examples have been scored, over all trials, by split."""
    total = select(outcomes.c.split, func.sum(outcomes.c.n)).where(outcomes.c.job_id == job_id)
    with engine.connect() as connection:
        rows = connection.execute(total.group_by(outcomes.c.split).order_by(outcomes.c.split))
        return {split: int(n) for split, n in rows}


@dataclass(frozen=True)
class Looks:
    """How often a split's examples were looked at, from the first recorded time to the last.

    `by` is the number of trials, or of gradient batches; `rounds` of the rows they were recorded in. `examples` counts
    an example once for every time it was asked.
    """

    by: int
    rounds: int
    examples: int
    first: datetime
    last: datetime


@retrying
def looks(engine: Engine, job_id: int) -> dict[str, Looks]:
    """Who scored on each split of a job; splits that nobody scored on are absent. No blob is read."""
    at = outcomes.c.created_at
    columns = [
        func.count(outcomes.c.trial.distinct()),
        func.count(),
        func.sum(outcomes.c.n),
        func.min(at),
        func.max(at),
    ]
    chosen = select(outcomes.c.split, *columns).where(outcomes.c.job_id == job_id)
    with engine.connect() as connection:
        rows = connection.execute(chosen.group_by(outcomes.c.split).order_by(outcomes.c.split))
        return {split: Looks(by, rounds, int(n), first, last) for split, by, rounds, n, first, last in rows}


def _recorded(row: Row[Any]) -> Recorded:
    if len(row.blob) != row.n * RECORD.itemsize:
        raise ValueError(
            f"The outcomes of trial {row.trial} ({row.split}, round {row.round}) must be {row.n} records of "
            f"{RECORD.itemsize} bytes, but are {len(row.blob)} bytes: the row is damaged. Restore a backup."
        )
    return Recorded(
        trial=row.trial,
        split=row.split,
        round=row.round,
        attempt=row.attempt,
        digest=row.digest,
        columns=unpack(row.blob),
        seconds=row.seconds,
        worker=row.worker,
        created_at=row.created_at,
    )
