"""An `optimizer.pool.Pool` of processes that can be killed; one that was is replaced, as Ray's would be."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path

from optimizer.pool import Answer, Unit
from tests.chaos import nursery as processes


@dataclass
class _Worker:
    name: str
    pid: int
    line: Connection
    unit: Unit | None = None


@dataclass
class ProcessPool:
    """`count` workers from the nursery, each of which takes `seconds` for a unit."""

    nursery: Path
    folder: Path
    name: str
    count: int
    seconds: float
    _started: int = 0
    _workers: list[_Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fill()

    def idle(self) -> int:
        return sum(worker.unit is None for worker in self._workers)

    def submit(self, unit: Unit) -> None:
        worker = next(worker for worker in self._workers if worker.unit is None)
        worker.unit = unit
        with suppress(OSError):  # it is dead, which is noticed below
            worker.line.send(vars(unit))

    def wait(self, seconds: float) -> list[Answer]:
        found = []
        for line in wait([worker.line for worker in self._workers], seconds):
            worker = next(worker for worker in self._workers if worker.line is line)
            unit, worker.unit = worker.unit, None
            try:
                answered = worker.line.recv()
            except (EOFError, OSError):
                self._workers.remove(worker)
                if unit is not None:
                    found.append(Answer(unit, None, worker.name, lost="its process was killed"))
                continue
            assert unit is not None
            found.append(Answer(unit, answered, worker.name))
        self._fill()
        return found

    def resize(self, count: int) -> None:
        """Only where coordinators share a cluster by Ray's count of it; here they do not."""
        raise NotImplementedError(f"asked for {count} workers")

    def close(self) -> None:
        for worker in self._workers:
            worker.line.close()
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)

    def _fill(self) -> None:
        while len(self._workers) < self.count:
            self._started += 1
            name = f"worker-{self._started}"
            path = self.folder / f"w{self.name}-{self._started}"
            path.unlink(missing_ok=True)
            with Listener(str(path)) as listener:
                pid = processes.start(self.nursery, "worker", self._log(), path=str(path), seconds=self.seconds)
                line = listener.accept()
            self._workers.append(_Worker(name, pid, line))
        (self.folder / f"workers-{self.name}.pids").write_text(" ".join(str(worker.pid) for worker in self._workers))

    def _log(self) -> Path:
        return self.folder / f"worker-{self.name}.log"
