"""The processes of a town: the real coordinator and the real controller, and stand-ins for what Ray is to them."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from benchmarks.service.simulated import answer
from optimizer.cli import main
from optimizer.coordinate import coordinate
from optimizer.database import open_database
from optimizer.jobs import Job
from optimizer.pool import Unit
from optimizer.progress import PlainLines
from optimizer.run import Place
from optimizer.serve import Controller, lead
from optimizer.signals import stop_requested
from optimizer.spec import JobFile
from tests.chaos import nursery as processes
from tests.chaos.haste import hurry
from tests.chaos.process_jobs import ProcessJobs
from tests.chaos.process_pool import ProcessPool
from tests.chaos.sockets import hear, listen_at

KILL_AFTER = 2.0  # seconds that a stopped coordinator has to end by itself
SKEWS = (0.0, 3600.0, -3600.0)


def coordinator(job_id: int, attempt: int, url: str, nursery: str, folder: str, seconds: float) -> None:
    """What `python -m optimizer.coordinate` does, with workers that are processes without models."""
    hurry(SKEWS[attempt % len(SKEWS)])
    hire = partial(_hired, nursery=Path(nursery), folder=Path(folder), seconds=seconds)
    coordinate(job_id, attempt, url, Place("auto", "queued", hire=hire))


@contextmanager
def _hired(
    _address: str | None, job: Job, spec: JobFile, *, nursery: Path, folder: Path, seconds: float
) -> Iterator[ProcessPool]:
    pool = ProcessPool(nursery, folder, f"{job.id}-{job.attempt}", spec.workers.count, seconds)
    try:
        yield pool
    finally:
        pool.close()


def worker(path: str, seconds: float) -> None:
    """Answer units, each after a while, until the coordinator hangs up."""
    with Client(path) as asker, suppress(EOFError, OSError):
        while True:
            unit = Unit(**asker.recv())
            time.sleep(seconds)
            asker.send(answer(unit))


def controller(url: str, url_file: str, head: str, most: int) -> None:
    """What `mergeopt serve` does once it has found a cluster."""
    hurry()
    database = open_database(url, patience=60.0)
    with stop_requested() as stop:
        lead(Controller(database, ProcessJobs(Path(head)), Path(url_file), PlainLines(), most), stop)  # type: ignore[arg-type]


def command(arguments: list[str]) -> None:
    """What the installed `mergeopt` does."""
    main(arguments)


def head(path: str, nursery: str, folder: str, urls: list[str], seconds: float) -> None:
    """Stand in for Ray's job facility: it starts coordinators, on one node after the other, and knows how they do.

    Like Ray's it forgets them all when it dies. `urls` is how each node reaches the database.
    """
    known: dict[str, int] = {}
    ends: dict[str, float] = {}

    def reply(question: dict[str, Any]) -> Any:
        name = question.get("name")
        pid = known.get(str(name))
        if question["what"] == "start" and pid is None:
            attempt = question["attempt"]
            known[str(name)] = processes.start(
                Path(nursery),
                "coordinator",
                Path(folder) / f"coordinator-{question['job_id']}.log",
                job_id=question["job_id"],
                attempt=attempt,
                url=urls[attempt % len(urls)],
                nursery=nursery,
                folder=folder,
                seconds=seconds,
            )
        elif question["what"] == "stop" and pid is not None and _code(pid) is None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            ends.setdefault(str(name), time.monotonic() + KILL_AFTER)
        elif question["what"] == "ask":
            if pid is None:
                return ["unknown", "never heard of it"]
            code = _code(pid)
            return ["under way", ""] if code is None else ["ended", f"exit code {code}"]
        elif question["what"] == "all":
            return known
        return None

    def _code(pid: int) -> int | None:
        return processes.code_of(Path(nursery), pid)

    listener = listen_at(Path(path))
    while True:
        hear(listener, 0.2, reply)
        for name in [name for name, end in ends.items() if time.monotonic() > end]:
            del ends[name]
            if _code(known[name]) is None:
                with suppress(ProcessLookupError):
                    os.kill(known[name], signal.SIGKILL)
