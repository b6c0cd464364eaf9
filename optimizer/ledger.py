"""A job's examples, split by split, and every time they were looked at."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from evaluators.protocol import SPLITS
from optimizer.events import Event, events
from optimizer.examples import LedgerEntry, ledger_hash, read_ledger
from optimizer.gradients import gradient_looks
from optimizer.jobs import Job
from optimizer.outcomes import Looks, looks

TEST_OPENED = "test split opened"  # the event of each opening
CALIBRATED = "experts calibrated"  # the event of each virtual expert: on how many `examples`, at what price (`efe`)
BY = {"gradient": "gradient batches", "search": "search trials", "select": "finalists", "test": "models"}


@dataclass(frozen=True)
class SplitLedger:
    """One split: its examples by task, their hash, and who looked at them.

    `looked_at` counts what looked: search trials (baselines among them), gradient batches, virtual experts that were
    calibrated, finalists, models, and openings of the test split. `rounds` are the recorded rows, `scored` counts an
    example once for every time it was asked. `first` and `last` are None where nobody looked.
    """

    split: str
    tasks: dict[str, int]
    hash: str
    looked_at: dict[str, int]
    rounds: int
    scored: int
    first: datetime | None
    last: datetime | None

    @property
    def examples(self) -> int:
        """How many examples the split has."""
        return sum(self.tasks.values())


@dataclass(frozen=True)
class Ledger:
    """A job's whole ledger; `hash` as in `ledger_hash`."""

    job: str
    hash: str
    splits: tuple[SplitLedger, ...]


def job_ledger(database: Engine, job: Job) -> Ledger:
    """The ledger of a job, in whatever state it is."""
    entries = read_ledger(database, job.id)
    found = looks(database, job.id)
    gradient = gradient_looks(database, job.id)
    if gradient is not None:
        found["gradient"] = gradient
    openings, calibrated = events(database, job.id, TEST_OPENED), events(database, job.id, CALIBRATED)
    # one that recorded nothing before it was killed is a look as well
    beside = {
        "test": ("test openings", openings),
        **({"gradient": ("virtual experts", calibrated)} if calibrated else {}),
    }
    splits = [_split(split, entries, found.get(split), *beside.get(split, ("", []))) for split in SPLITS]
    return Ledger(job.name, ledger_hash(entries), tuple(splits))


def _split(split: str, entries: list[LedgerEntry], by: Looks | None, name: str, beside: list[Event]) -> SplitLedger:
    """`beside` are looks that are no rows of their own, called `name`; "" where the split has none."""
    mine = [entry for entry in entries if entry.split == split]
    looked_at = {**({name: len(beside)} if name else {}), BY[split]: by.by if by is not None else 0}
    moments = [by.first, by.last] if by is not None else []
    moments += [event.at for event in beside]
    return SplitLedger(
        split=split,
        tasks=dict(Counter(entry.task for entry in mine)),
        hash=ledger_hash(mine),
        looked_at=looked_at,
        rounds=by.rounds if by is not None else 0,
        scored=(by.examples if by is not None else 0) + sum(event.data.get("examples", 0) for event in beside),
        first=min(moments, default=None),
        last=max(moments, default=None),
    )


def ledger_json(ledger: Ledger) -> dict[str, Any]:
    """Plain data, times in ISO 8601 (UTC)."""
    return {
        "job": ledger.job,
        "hash": ledger.hash,
        "splits": {
            one.split: {
                "examples": one.examples,
                "tasks": one.tasks,
                "hash": one.hash,
                "looked_at": one.looked_at,
                "rounds": one.rounds,
                "scored": one.scored,
                "first": None if one.first is None else one.first.isoformat(timespec="seconds"),
                "last": None if one.last is None else one.last.isoformat(timespec="seconds"),
            }
            for one in ledger.splits
        },
    }


def ledger_tables(ledger: Ledger) -> Group:
    """For a terminal: who looked at each split, then its tasks, then the hashes."""
    total = sum(one.examples for one in ledger.splits)
    parts: list[RenderableType] = [Text(f"{ledger.job}: {total:,} examples"), Text(""), _looks(ledger), Text("")]
    parts += [_tasks(ledger), Text(""), _hashes(ledger)]
    return Group(*parts)


def _looks(ledger: Ledger) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("split", "looked at by", "scored", "first (UTC)", "last (UTC)"):
        table.add_column(name, justify="right" if name == "scored" else "left", overflow="fold")
    for one in ledger.splits:
        by = ", ".join(_counted(name, count) for name, count in one.looked_at.items() if count) or "nobody"
        moments = ["" if at is None else f"{at:%Y-%m-%d %H:%M}" for at in (one.first, one.last)]
        table.add_row(one.split, Text(by), f"{one.scored:,}", *moments)
    return table


def _counted(name: str, count: int) -> str:
    if count == 1:
        name = {"gradient batches": "gradient batch"}.get(name, name.removesuffix("s"))
    return f"{count:,} {name}"


def _tasks(ledger: Ledger) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("examples", overflow="fold")
    for one in ledger.splits:
        table.add_column(one.split, justify="right")
    for task in dict.fromkeys(task for one in ledger.splits for task in one.tasks):
        table.add_row(Text(task), *(f"{one.tasks.get(task, 0):,}" for one in ledger.splits))
    table.add_row("together", *(f"{one.examples:,}" for one in ledger.splits))
    return table


def _hashes(ledger: Ledger) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("sha256")
    table.add_column("", overflow="fold")
    for name, digest in [*((one.split, one.hash) for one in ledger.splits), ("together", ledger.hash)]:
        table.add_row(name, Text(digest))
    return table
