"""A job's log in the database, line by line, so that it can be read wherever the database can be reached.

Lines are handed to a thread and written about once a second: a database that is away never stops the work, it only
costs lines once too many wait.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, insert, select

from optimizer.database import retrying, writing
from optimizer.logs import without_secrets
from optimizer.progress import Progress, Standings
from optimizer.tables import DatabaseClock, log_lines

SEARCH_SECONDS = 15.0  # between two lines on how far the search is
_WAITING = 5000  # lines at most
_LONGEST = 4000  # characters of a line
_DATABASE = "optimizer.database"  # what is said about the very thing that takes the lines is no line

_log = logging.getLogger(f"{_DATABASE}.log")


@dataclass(frozen=True)
class Line:
    """One line. `at` is UTC; `id` grows with time, for whoever follows."""

    id: int
    attempt: int
    at: datetime
    level: str
    text: str


class JobLog(logging.Handler):
    """What happens to a job: steps and standings of its `Progress`, and warnings of this process."""

    def __init__(self, database: Engine, job_id: int, attempt: int, beside: Progress) -> None:
        super().__init__(logging.WARNING)
        self._database, self._job_id, self._attempt, self._beside = database, job_id, attempt, beside
        self._lines: queue.Queue[tuple[str, str] | None] = queue.Queue(_WAITING)
        self._last = 0.0
        self._thread = threading.Thread(target=self._write_all, name="job log", daemon=True)

    def say(self, text: str) -> None:
        """A step that has begun, as `Progress.say`."""
        self._beside.say(text)
        self._put("info", text)

    def search(self, standings: Standings) -> None:
        """The search as it stands now, as `Progress.search`."""
        self._beside.search(standings)
        now = time.monotonic()
        if now - self._last >= SEARCH_SECONDS or standings.share >= 1:
            self._last = now
            self._put("info", f"search: {standings.line()}")

    def emit(self, record: logging.LogRecord) -> None:
        """A warning or an error of this process, as `logging.Handler.emit`."""
        if record.name.startswith(_DATABASE):
            return
        self._put(record.levelname.lower(), record.getMessage())

    @contextmanager
    def open(self) -> Iterator["JobLog"]:
        """Take lines while the block lasts; what waits at its end is written."""
        self._thread.start()
        root, last = logging.getLogger(), logging.lastResort
        alone = not root.handlers
        for handler in (self, last if alone else None):  # with a handler, what nobody else would print is not printed
            if handler is not None:
                root.addHandler(handler)
        try:
            yield self
        finally:
            root.removeHandler(self)
            if alone and last is not None:
                root.removeHandler(last)
            self._put_last()
            self._thread.join(timeout=10)

    def _put(self, level: str, text: str) -> None:
        with suppress(queue.Full):  # the database has been away for long; the work matters more
            self._lines.put_nowait((level, without_secrets(text).replace("\x00", "\\x00")[:_LONGEST]))

    def _put_last(self) -> None:
        with suppress(queue.Full):
            self._lines.put(None, timeout=5)

    def _write_all(self) -> None:
        while True:
            lines = [self._lines.get()]
            while not self._lines.empty() and len(lines) < 500:
                lines.append(self._lines.get_nowait())
            rows = [{"level": line[0], "text": line[1]} for line in lines if line is not None]
            if rows:
                try:
                    _write(self._database, self._job_id, self._attempt, rows)
                except Exception as error:
                    _log.warning("%d lines of the job's log are lost: %s", len(rows), error)
            if None in lines:
                return
            time.sleep(0.5)


@retrying
def _write(engine: Engine, job_id: int, attempt: int, rows: list[dict[str, str]]) -> None:
    with writing(engine) as connection:
        whose: dict[str, Any] = {"job_id": job_id, "attempt": attempt, "at": DatabaseClock()}
        connection.execute(insert(log_lines).values([whose | row for row in rows]))


@retrying
def read_lines(engine: Engine, job_id: int, behind: int = 0, last: int | None = None) -> list[Line]:
    """The job's lines after the one with id `behind`, in order; only the `last` so many where that is given."""
    columns = (log_lines.c.id, log_lines.c.attempt, log_lines.c.at, log_lines.c.level, log_lines.c.text)
    chosen = select(*columns).where(log_lines.c.job_id == job_id, log_lines.c.id > behind)
    with engine.connect() as connection:
        found = connection.execute(chosen.order_by(log_lines.c.id.desc()).limit(last)).all()
    return [Line(*row) for row in reversed(found)]
