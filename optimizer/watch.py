"""Look at jobs again and again: until one has ended, or for as long as somebody watches."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy import Engine

from optimizer.joblog import Line, read_lines
from optimizer.jobs import Job, get_job, glance

LOOK_SECONDS = 2.0
UNDER_WAY = ("queued", "running")
_Looked = TypeVar("_Looked")


def again_and_again(look: Callable[[], _Looked]) -> Iterator[_Looked]:
    """What is seen now, and every two seconds from now on."""
    while True:
        yield look()
        time.sleep(LOOK_SECONDS)


def wait_for_end(engine: Engine, name: str, timeout: float | None) -> Job | None:
    """The job once it is neither queued nor running; None where it still is after `timeout` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    found = get_job(engine, name)
    pause = 0.1
    while glance(engine, found.id).state in UNDER_WAY:
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(LOOK_SECONDS, 1.5 * pause)
    return get_job(engine, found.id)


def lines_of(engine: Engine, name: str, last: int, follow: bool) -> Iterator[Line]:
    """The job's last lines; with `follow`, also those to come, until it has ended or stopped."""
    found = get_job(engine, name)
    behind = 0
    while True:
        under_way = glance(engine, found.id).state in UNDER_WAY  # before the lines are read: none is missed
        for line in read_lines(engine, found.id, behind, last if behind == 0 else None):
            behind = line.id
            yield line
        if not follow or not under_way:
            return
        time.sleep(LOOK_SECONDS / 2)
