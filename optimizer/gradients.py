"""Gradients of the coefficients, batch by batch: recorded exactly once, by the holder of the job."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, select

from optimizer.database import retrying
from optimizer.jobs import record_once
from optimizer.outcomes import Looks
from optimizer.tables import gradients


@dataclass(frozen=True)
class RecordedGradient:
    """One shard of a gradient batch as it stands in the database.

    `positions` are its examples' positions in the job's ledger, `losses` their losses in nats, `rows` the gradient by
    each group's coefficients. Numbers keep all their bits. `attempt` is the claim it was recorded under.
    """

    number: int
    shard: int
    attempt: int
    digest: str
    positions: tuple[int, ...]
    losses: tuple[float, ...]
    rows: Mapping[str, tuple[float, ...]]
    seconds: float
    worker: str
    created_at: datetime


def record_gradient(
    engine: Engine,
    job_id: int,
    attempt: int,
    *,
    number: int,
    shard: int,
    digest: str,
    positions: Sequence[int],
    losses: Sequence[float],
    rows: Mapping[str, Sequence[float]],
    seconds: float,
    worker: str,
) -> bool:
    """Record one shard; False where that shard of that number is recorded already.

    Raises `LeaseLost`, and records nothing, where `attempt` does not hold the job any more.
    """
    row = {
        "job_id": job_id,
        "number": number,
        "shard": shard,
        "attempt": attempt,
        "digest": digest,
        "positions": list(positions),
        "losses": list(losses),
        "rows": {group: list(row) for group, row in rows.items()},
        "seconds": seconds,
        "worker": worker,
    }
    return record_once(engine, gradients, row, ("job_id", "number", "shard"), uuid.uuid4().hex)


@retrying
def read_gradients(engine: Engine, job_id: int) -> list[RecordedGradient]:
    """Every recorded shard of a job, by number and shard."""
    chosen = select(gradients).where(gradients.c.job_id == job_id).order_by(gradients.c.number, gradients.c.shard)
    with engine.connect() as connection:
        return [
            RecordedGradient(
                number=row.number,
                shard=row.shard,
                attempt=row.attempt,
                digest=row.digest,
                positions=tuple(row.positions),
                losses=tuple(row.losses),
                rows={group: tuple(values) for group, values in row.rows.items()},
                seconds=row.seconds,
                worker=row.worker,
                created_at=row.created_at,
            )
            for row in connection.execute(chosen)
        ]


@retrying
def gradient_positions(engine: Engine, job_id: int) -> set[int]:
    """The examples that gradients were taken on, by their positions in the job's ledger."""
    chosen = select(gradients.c.positions).where(gradients.c.job_id == job_id)
    with engine.connect() as connection:
        return {position for (positions,) in connection.execute(chosen) for position in positions}


@retrying
def gradient_looks(engine: Engine, job_id: int) -> Looks | None:
    """How often gradients were taken; None where none was. Losses and gradients are not read."""
    chosen = select(gradients.c.number, gradients.c.positions, gradients.c.created_at)
    with engine.connect() as connection:
        rows = connection.execute(chosen.where(gradients.c.job_id == job_id)).all()
    if not rows:
        return None
    moments = [row.created_at for row in rows]
    return Looks(
        by=len({row.number for row in rows}),
        rounds=len(rows),
        examples=sum(len(row.positions) for row in rows),
        first=min(moments),
        last=max(moments),
    )
