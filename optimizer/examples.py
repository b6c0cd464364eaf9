"""The frozen list of a job's examples: written once at submit, referred to by position ever after."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, insert, select

from optimizer.database import retrying, writing
from optimizer.errors import InputError
from optimizer.tables import examples, jobs


@dataclass(frozen=True)
class LedgerEntry:
    """One example. Its position in the ledger is its index in the list that was written, from 0."""

    id: str
    task: str
    split: str


def ledger_hash(entries: Iterable[LedgerEntry]) -> str:
    """The SHA-256, in hexadecimal, of the examples' ids, tasks and splits in their order.

    Two jobs with the same hash were searched, chosen and tested on the same examples, dealt alike.
    """
    digest = hashlib.sha256()
    for entry in entries:
        line = json.dumps([entry.id, entry.task, entry.split], ensure_ascii=False, separators=(",", ":"))
        digest.update(f"{line}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@retrying
def write_ledger(engine: Engine, job_id: int, entries: Sequence[LedgerEntry]) -> None:
    """Write the ledger in one transaction; nothing happens where the same one is there already.

    Raises `InputError` where another one is there, and `ValueError` where an example comes twice.
    """
    with writing(engine) as connection:
        # Two writers take turns.
        connection.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update(key_share=True)).one()
        there = _entries(connection, job_id)
        if not there:
            insert_entries(connection, job_id, entries)
            return
    if there != list(entries):
        raise InputError(
            f"The examples of a job are fixed when it is submitted, but job {job_id} has {len(there)} and "
            f"was given {len(entries)} that differ. If the tasks' data changed, submit a new job."
        )


def insert_entries(connection: Connection, job_id: int, entries: Sequence[LedgerEntry]) -> None:
    """Write the ledger inside the caller's transaction. Raises `ValueError` where an example comes twice."""
    seen: dict[str, int] = {}
    for position, entry in enumerate(entries):
        first = seen.setdefault(entry.id, position)
        if first != position:
            raise ValueError(
                f"An example must stand in the ledger once, but {entry.id!r} is at {first} and {position}. "
                "Remove the double from the task's data."
            )
    rows = [
        {"job_id": job_id, "position": i, "example_id": entry.id, "task": entry.task, "split": entry.split}
        for i, entry in enumerate(entries)
    ]
    if rows:
        connection.execute(insert(examples), rows)


@retrying
def read_ledger(engine: Engine, job_id: int) -> list[LedgerEntry]:
    """The job's examples in the order of their positions."""
    with engine.connect() as connection:
        return _entries(connection, job_id)


def _entries(connection: Connection, job_id: int) -> list[LedgerEntry]:
    columns = select(examples.c.example_id, examples.c.task, examples.c.split)
    rows = connection.execute(columns.where(examples.c.job_id == job_id).order_by(examples.c.position))
    return [LedgerEntry(*row) for row in rows]
