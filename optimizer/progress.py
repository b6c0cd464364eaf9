"""Say how far a long command has come: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from optimizer import logs


@dataclass(frozen=True)
class Standings:
    """How far a search is. `share` is the part of the budget that is used, in [0, 1]; `best` is on the search split."""

    finished: int
    failed: int
    share: float
    examples: int
    seconds: float
    best: float | None
    best_label: str

    @property
    def examples_per_second(self) -> float:
        """Scored examples per second of this run."""
        return self.examples / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take at the present pace, None before the first result."""
        if self.share <= 0 or self.finished == 0:
            return None
        return self.seconds * (1 - self.share) / self.share

    def line(self) -> str:
        """Everything in one line of plain text."""
        best = "no score yet" if self.best is None else f"best {self.best:.4f} ({self.best_label})"
        failed = f", {self.failed} failed" if self.failed else ""
        left = self.seconds_left
        rest = "" if left is None else f", about {clock(left)} left"
        return (
            f"{self.finished} trials{failed}, {best}, {self.examples} examples at "
            f"{self.examples_per_second:.0f}/s, {clock(self.seconds)}{rest}"
        )

    def figures(self) -> dict[str, float | None]:
        """What a program wants of it."""
        return {
            "finished": self.finished,
            "failed": self.failed,
            "share": self.share,
            "examples": self.examples,
            "seconds": self.seconds,
            "best": self.best,
        }


class Progress(Protocol):
    """Where a running job reports to."""

    def say(self, text: str) -> None:
        """A step that has begun, or something its reader should know."""
        ...

    def search(self, standings: Standings) -> None:
        """The search as it stands now."""
        ...


class PlainLines:
    """One line at a time, the search at most every few seconds: for logs and pipes."""

    def __init__(self, every_seconds: float = 5.0) -> None:
        self._every = every_seconds
        self._last = 0.0

    def say(self, text: str) -> None:
        logs.say(text)

    def search(self, standings: Standings) -> None:
        now = time.monotonic()
        if now - self._last >= self._every or standings.share >= 1:
            self._last = now
            logs.say(f"search: {standings.line()}", **standings.figures())


class LiveBar:
    """A bar that stays at the bottom of the terminal while lines scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("[bold]search[/bold]"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=False,
        )
        self._task = self._bar.add_task("", total=1.0, visible=False)
        self._bar.start()

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def search(self, standings: Standings) -> None:
        self._bar.update(self._task, completed=standings.share, description=standings.line(), visible=True)

    def stop(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        self._bar.stop()


@contextmanager
def progress() -> Iterator[Progress]:
    """A live bar where standard error is a terminal that people read, plain lines where it is not."""
    if logs.wants_json() or not sys.stderr.isatty():
        yield PlainLines()
        return
    bar = LiveBar()
    try:
        yield bar
    finally:
        bar.stop()


def clock(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
