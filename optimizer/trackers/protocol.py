"""What every experiment tracker is told, and what it can be asked."""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Run:
    """The job that is reported. `folder` is where files of it may go, `settings` its job file as flat words."""

    job: str
    job_id: int
    submitted: datetime
    folder: Path
    settings: Mapping[str, str]

    def key(self) -> str:
        """A name that no other job has, also not one of another database; the same for every attempt."""
        identity = f"{self.job}/{self.job_id}/{self.submitted.timestamp():.3f}"
        readable = re.sub(r"[^A-Za-z0-9-]+", "-", self.job).strip("-")[:40]
        return f"{readable}-{self.job_id}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class Told:
    """A trial that was told: when, and figures under names like `objective/score`, `task/gsm8k`, `best/score`."""

    number: int
    at: datetime
    figures: Mapping[str, float]


class Tracker(Protocol):
    """One run of a tracker, which several attempts at a job share. Opened, it has been told the job's settings.

    All methods may raise anything: whoever calls them says so once, and calls no more.
    """

    def reported(self) -> Collection[int] | None:
        """The numbers of the trials it has been told by earlier attempts; None where it cannot say."""
        ...

    def trial(self, told: Told) -> None:
        """Take a trial's figures; its number is the step."""
        ...

    def done(self, figures: Mapping[str, float]) -> None:
        """Take the figures of the final report."""
        ...

    def close(self) -> None:
        """Send what is left, and let go of everything."""
        ...
