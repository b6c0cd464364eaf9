"""What a controller sees of the stand-in for Ray's job facility: the methods of `optimizer.cluster.jobs.RayJobs`."""

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.cluster.jobs import RayAway, Told
from tests.chaos.sockets import ask


@dataclass
class ProcessJobs:
    """The job facility whose head listens at a socket. Every method raises `RayAway` where it does not answer."""

    head: Path

    def start(self, name: str, entrypoint: str) -> None:
        job_id, attempt, _ = shlex.split(entrypoint)[-3:]
        self._ask("start", name=name, job_id=int(job_id), attempt=int(attempt))

    def ping(self) -> None:
        self._ask("ping")

    def ask(self, name: str) -> Told:
        return Told(*self._ask("ask", name=name))

    def log(self, _name: str) -> str:
        return ""

    def stop(self, name: str) -> None:
        with suppress(RayAway):
            self._ask("stop", name=name)

    def _ask(self, what: str, **more: Any) -> Any:
        try:
            return ask(self.head, {"what": what, **more})
        except OSError as error:
            raise RayAway(str(error)) from error
