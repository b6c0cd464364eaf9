"""What the queue costs when it is long: `python -m benchmarks.service.queue`.

The database holds `--jobs` jobs of many users, all queued but for eight that run, each with the job file and the plan
of a real search. Every call is timed against it as a command or a controller makes it. Whole commands are timed beside
the same command on an empty database, in turn: what is left of theirs is Python starting and, for `submit`, the checks
of the job file, models and tasks, which no queue makes longer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, insert

from benchmarks.service.databases import analyzed, databases
from benchmarks.service.job import job_file, ledger_of, plan_of
from benchmarks.service.tiny import TINY, tiny_job
from optimizer.database import open_database, writing
from optimizer.jobs import create_job, find_job, get_job, release, renew
from optimizer.overview import look
from optimizer.owners import new_owner
from optimizer.queue import claim_next, count_jobs, list_jobs
from optimizer.tables import DatabaseClock, jobs

USERS, RUNNING, SHOWN = 20, 8, 50
WANTED = 200.0  # milliseconds


@dataclass(frozen=True)
class Row:
    """One thing, timed: milliseconds. `empty` is a whole command's time where the queue is empty."""

    database: str
    what: str
    median: float
    worst: float
    empty: float | None = None

    @property
    def queue(self) -> float:
        """What the queue costs of it."""
        return self.median - (self.empty or 0.0)


def main() -> None:
    options = _options()
    rows: list[Row] = []
    for kind in options.databases:
        with databases(kind) as new:
            empty, full = new(), new()
            open_database(empty).dispose()
            rows += calls(kind, full, options.jobs, options.examples, options.rounds)
            if options.commands:
                rows += commands(kind, empty, full, options.commands)
    if options.json:
        print("\n".join(json.dumps(asdict(row)) for row in rows))
    else:
        Console(width=120).print(table(rows, options.jobs))


def calls(kind: str, url: str, count: int, examples: int, rounds: int) -> list[Row]:
    """Fill the database, and time what commands and controllers ask of it."""
    database = open_database(url)
    file = job_file("random", trials=1000)
    plan = plan_of(file, parameters=32, examples=examples)
    spec, planned = file.model_dump(mode="json"), plan.model_dump(mode="json")
    fill(database, count, spec, planned)
    analyzed(url)
    ledger, owner, running = ledger_of(plan), new_owner(), f"job {RUNNING - 1}"

    def submitted() -> None:
        name = uuid.uuid4().hex
        find_job(database, name)
        create_job(database, name, spec, planned, "", "user 3", ledger, priority=-1)

    def claimed() -> None:
        job = claim_next(database, owner, 30.0)
        assert job is not None
        release(database, job.id, job.attempt, state="queued")

    def scraped() -> None:
        with database.connect() as connection:
            look(connection)

    held = get_job(database, running)
    timed: dict[str, Callable[[], Any]] = {
        f"submit, with {len(ledger)} examples": submitted,
        f"jobs, the last {SHOWN}": lambda: (list_jobs(database, last=SHOWN), count_jobs(database)),
        "jobs of one user": lambda: (list_jobs(database, user="user 7", last=SHOWN), count_jobs(database)),
        "jobs --all": lambda: (list_jobs(database), count_jobs(database)),
        "claim_next, and give back": claimed,
        "renew a lease": lambda: renew(database, held.id, "benchmark", held.attempt, 600.0),
        "metrics, one page": scraped,
    }
    rows = [_row(kind, what, call, rounds) for what, call in timed.items()]
    database.dispose()
    return rows


def fill(database: Engine, count: int, spec: dict[str, Any], plan: dict[str, Any]) -> None:
    """So many jobs, the oldest few of them running; in one transaction, as many short ones would have left them."""
    rows = [
        {
            "name": f"job {number}",
            "state": "running" if number < RUNNING else "queued",
            "attempt": int(number < RUNNING),
            "owner": "benchmark" if number < RUNNING else None,
            "lease_left": 600.0 if number < RUNNING else None,
            "priority": number % 3,
            "submitted_by": f"user {number % USERS}",
        }
        for number in range(count)
    ]
    common = {"spec": spec, "plan": plan, "folder": "", "served": True, "deaths": 0, "created_at": DatabaseClock()}
    with writing(database) as connection:
        for row in rows:
            left = row.pop("lease_left")
            lease = None if left is None else DatabaseClock() + left
            connection.execute(insert(jobs).values(**common, **row, lease_until=lease, write_id=uuid.uuid4().hex))


def commands(kind: str, empty: str, full: str, rounds: int) -> list[Row]:
    """Whole commands, each on the empty and on the full database in turn."""
    rows = [_command(kind, "mergeopt jobs", empty, full, rounds, lambda _: ["jobs"])]
    if (TINY / "models" / "base").is_dir():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "job.yaml"
            file.write_text(yaml.safe_dump(tiny_job("tiny", 10, {"search": 40, "select": 20, "test": 60})))

            def submit(number: int) -> list[str]:
                return ["submit", str(file), "--name", f"tiny-{number}", "--folder", f"{folder}/{number}"]

            rows.append(_command(kind, "mergeopt submit", empty, full, rounds, submit))
    else:
        print(f"`mergeopt submit` is left out: make its models with `python {TINY / 'make.py'}`", file=sys.stderr)
    return rows


def _command(kind: str, what: str, empty: str, full: str, rounds: int, arguments: Callable[[int], list[str]]) -> Row:
    times: dict[str, list[float]] = {empty: [], full: []}
    for number in range(rounds + 1):
        for url, seconds in times.items():
            began = time.perf_counter()
            _run(arguments(number), url)
            seconds.append(time.perf_counter() - began)
    counted = {url: seconds[1:] for url, seconds in times.items()}  # the first reads files from the disk
    return Row(kind, what, *_figures(counted[full]), empty=_figures(counted[empty])[0])


def _run(arguments: Sequence[str], url: str) -> None:
    environment = os.environ | {"MERGEOPT_STORAGE": url, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-m", "optimizer.cli", *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{ran.stderr}")


def _row(kind: str, what: str, call: Callable[[], Any], rounds: int) -> Row:
    seconds = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return Row(kind, what, *_figures(seconds[2:]))  # the first two compile statements and fill caches


def _figures(seconds: Sequence[float]) -> tuple[float, float]:
    return 1000 * statistics.median(seconds), 1000 * max(seconds)


def table(rows: Sequence[Row], count: int) -> Table:
    """What was measured, a row for each thing."""
    made = Table(title=f"Milliseconds, {count:,} jobs in the database; at most {WANTED:.0f} are wanted")
    for name in ("database", "what", "median", "worst", "empty queue", "the queue's part"):
        made.add_column(name, justify="left" if name in ("database", "what") else "right")
    for row in rows:
        empty = "" if row.empty is None else f"{row.empty:,.0f}"
        made.add_row(row.database, row.what, f"{row.median:,.1f}", f"{row.worst:,.1f}", empty, f"{row.queue:,.1f}")
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("postgresql", "sqlite")
    parser.add_argument("--databases", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--examples", type=int, default=400, help="of each of a job's three splits")
    parser.add_argument("--rounds", type=int, default=30, help="times that each call is made")
    parser.add_argument(
        "--commands", type=int, default=5, help="times that each whole command is run; 0 leaves them out"
    )
    parser.add_argument("--json", action="store_true", help="one line for each row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
