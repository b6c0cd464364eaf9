"""How soon a search goes on after its coordinator was killed: `python -m benchmarks.service.recovery`.

A real controller on a local Ray cluster carries out a real job on the tiny models, with the timings that everybody has.
Its coordinator gets SIGKILL in the middle of the search; counted are the seconds until the job is taken again, and
until the next attempt has recorded its first outcome. Most of the latter is Python, Ray and models starting, as at the
very first attempt, which stands beside it. With `--all-of-it` the controller and all of Ray are killed too and a new
controller is started at once: then the lease has to run out first, and Ray to start.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import yaml
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, func, select

from benchmarks.service.databases import databases
from benchmarks.service.tiny import TINY, tiny_job
from optimizer.database import open_database
from optimizer.lease import LEASE_SECONDS
from optimizer.tables import jobs, outcomes
from optimizer.watch import UNDER_WAY

WANTED = 2.0  # lease times
PATIENCE = 600.0
RECORDED = 5  # outcomes of an attempt before it is killed


@dataclass(frozen=True)
class Row:
    """One kill: seconds until the job was taken again, and until something more was recorded."""

    database: str
    killed: str
    taken: float
    recorded: float

    @property
    def leases(self) -> float:
        """The same in lease times."""
        return self.recorded / LEASE_SECONDS


class Service:
    """A controller, its cluster and its one job, in a folder and a database of their own."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self.database: Engine = open_database(url)
        self._process: psutil.Popen | None = None

    def submit(self) -> None:
        """Put a job in the queue that would take for ever."""
        file = self._folder / "job.yaml"
        job = tiny_job("endless", 100_000, {"search": 10, "select": 10, "test": 10}) | {"workers": {"count": 1}}
        file.write_text(yaml.safe_dump(job))
        subprocess.run(self._command("submit", str(file)), env=self._environment(), cwd=self._folder, check=True)

    def start(self) -> None:
        """Start the controller."""
        with (self._folder / "log").open("a") as log:
            self._process = psutil.Popen(
                self._command("serve"),
                env=self._environment(),
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def attempt(self) -> int:
        """The number of the last attempt."""
        with self.database.connect() as connection:
            return int(connection.scalar(select(jobs.c.attempt)) or 0)

    def _state(self) -> str:
        with self.database.connect() as connection:
            return str(connection.scalar(select(jobs.c.state)))

    def recorded(self, attempt: int) -> int:
        """How many outcomes this attempt has recorded."""
        with self.database.connect() as connection:
            return int(connection.scalar(select(func.count()).where(outcomes.c.attempt == attempt)) or 0)

    def kill_coordinator(self) -> None:
        """Send SIGKILL to the process that holds the job, and to no other."""
        found = [one for one in self._family() if _is_coordinator(one)]
        if not found:
            raise SystemExit(f"no coordinator runs:\n{self._log()}")
        for one in found:
            one.kill()

    def kill_all(self) -> None:
        """Send SIGKILL to the controller and to everything it has started."""
        for one in self._family():
            with suppress(psutil.NoSuchProcess):
                one.kill()

    def stop(self) -> None:
        """End the controller in order, and whatever it leaves behind."""
        family = self._family()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.database.dispose()

    def wait(self, reached: Callable[[], bool]) -> float:
        """Seconds from now until something is so."""
        began = time.monotonic()
        while not reached():
            ended = self._process is None or self._process.poll() is not None or self._state() not in UNDER_WAY
            if ended or time.monotonic() - began > PATIENCE:
                raise SystemExit(f"controller or job have ended, or nothing has moved:\n{self._log()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def _family(self) -> list[psutil.Process]:
        """What the controller has started. Ray stays in its session; coordinators have sessions of their own."""
        found: dict[int, psutil.Process] = {}
        for one in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if self._process is not None and os.getsid(one.pid) == self._process.pid:
                    found |= {child.pid: child for child in [one, *one.children(recursive=True)]}
        return list(found.values())

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "optimizer.cli", *arguments]

    def _environment(self) -> dict[str, str]:
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return os.environ | offline | {"MERGEOPT_STORAGE": self._url}

    def _log(self) -> str:
        return (self._folder / "log").read_text()[-3000:]


def _is_coordinator(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        command = process.cmdline()
        return "optimizer.coordinate" in command and "python" in Path(command[0]).name
    return False


def main() -> None:
    options = _options()
    subprocess.run([sys.executable, str(TINY / "make.py")], check=True, stdout=subprocess.DEVNULL)
    rows: list[Row] = []
    for kind in options.databases:
        with databases(kind) as new, tempfile.TemporaryDirectory() as folder:
            rows += measured(kind, new(), Path(folder), options.rounds, options.all_of_it)
    if options.json:
        print("\n".join(json.dumps(asdict(row)) for row in rows))
    else:
        Console(width=100).print(table(rows))


def measured(kind: str, url: str, folder: Path, rounds: int, all_of_it: int) -> list[Row]:
    """Kill the coordinator so many times, then everything so many times."""
    service = Service(folder, url)
    try:
        service.submit()
        service.start()
        rows = [_first(service, kind)]
        rows += [_killed(service, kind, "coordinator") for _ in range(rounds)]
        return rows + [_killed(service, kind, "all of it") for _ in range(all_of_it)]
    finally:
        service.stop()


def _first(service: Service, kind: str) -> Row:
    """How long it takes until an undisturbed first attempt has recorded something: what no recovery can do without."""
    service.wait(lambda: service.attempt() > 0)
    return _said(Row(kind, "nothing, the first start", 0.0, service.wait(lambda: service.recorded(1) > 0)))


def _said(row: Row) -> Row:
    print(
        f"{row.database}, {row.killed}: {row.recorded:.1f} s, {row.leases:.2f} lease times", file=sys.stderr, flush=True
    )
    return row


def _killed(service: Service, kind: str, what: str) -> Row:
    service.wait(lambda: service.recorded(service.attempt()) >= RECORDED)
    attempt = service.attempt()
    began = time.monotonic()
    if what == "coordinator":
        service.kill_coordinator()
    else:
        service.kill_all()
        service.start()
    service.wait(lambda: service.attempt() > attempt)
    taken = time.monotonic() - began
    service.wait(lambda: service.recorded(service.attempt()) > 0)
    return _said(Row(kind, what, taken, time.monotonic() - began))


def table(rows: Sequence[Row]) -> Table:
    """What was measured, medians and worst."""
    made = Table(title=f"Seconds after SIGKILL; a lease is {LEASE_SECONDS:.0f} s, at most {WANTED:g} leases are wanted")
    names = ("database", "killed", "times", "taken again", "outcome", "worst", "lease times, worst")
    for name in names:
        made.add_column(name, justify="left" if name in names[:2] else "right")
    for key in dict.fromkeys((row.database, row.killed) for row in rows):
        own = [row for row in rows if (row.database, row.killed) == key]
        worst = max(row.recorded for row in own)
        figures = (statistics.median(row.taken for row in own), statistics.median(row.recorded for row in own), worst)
        said = (f"{figure:.1f}" for figure in figures)
        made.add_row(*key, str(len(own)), *said, f"{worst / LEASE_SECONDS:.2f}")
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("sqlite", "postgresql")
    parser.add_argument("--databases", nargs="+", choices=kinds, default=["postgresql"])
    parser.add_argument("--rounds", type=int, default=5, help="times that the coordinator is killed")
    parser.add_argument("--all-of-it", type=int, default=0, metavar="ROUNDS", help="times that everything is killed")
    parser.add_argument("--json", action="store_true", help="one line for each row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
