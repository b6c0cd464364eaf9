"""A whole service on one machine: controllers, a head, coordinators and their workers, before a database.

Whatever ends is started again, as a service manager would.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import Engine

from optimizer.database import open_database
from optimizer.jobs import Job
from optimizer.study import open_storage
from tests.chaos import nursery as processes
from tests.chaos.haste import hurry
from tests.chaos.jobs import submit
from tests.chaos.nursery import Nursery
from tests.chaos.proxy import Proxy
from tests.chaos.sockets import ask
from tests.postgres import PostgresServer, StartError

CONTROLLERS = 3
AT_A_TIME = 2  # jobs of each controller
UNIT_SECONDS = 0.03


@dataclass
class Town:
    """`said` is where parts talk and log; `folder`, where jobs write, may be on a disk that runs full."""

    said: Path
    folder: Path
    nursery: Nursery
    server: PostgresServer | None
    url: str
    proxies: list[Proxy]
    _pids: dict[str, int] = field(default_factory=dict)
    _later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _not_before: dict[str, float] = field(default_factory=dict)
    _ever: dict[str, int] = field(default_factory=dict)  # every coordinator that a head has told of

    def __post_init__(self) -> None:
        self.database: Engine = open_database(self.url)
        open_storage(self.url).engine.dispose()
        self._urls = [proxy.url(self.url) for proxy in self.proxies] or [self.url]
        (self.said / "url").write_text(self.url)

    def submit(self, engines: list[str], seed: int, trials: int) -> list[Job]:
        """Put jobs in the queue, called after their engines."""
        return [submit(self.database, engine, seed, trials, self.folder) for engine in engines]

    def tend(self) -> None:
        """Do what is due, and start what has ended."""
        now = time.monotonic()
        due = [what for at, what in self._later if at <= now]
        self._later = [(at, what) for at, what in self._later if at > now]
        for what in due:
            what()
        if self.server is not None and self._may_start("database") and not self.database_lives():
            with suppress(StartError):  # its disk is full, or its old processes are still ending
                self.server.start()
        if self._may_start("head") and not self._lives("head"):
            self._start("head", nursery=str(self.nursery.path), folder=str(self.said), urls=self._urls)
        for number in range(CONTROLLERS):
            if self._may_start(f"controller-{number}") and not self._lives(f"controller-{number}"):
                self._start(f"controller-{number}", url=self.url, url_file=str(self.said / "url"), most=AT_A_TIME)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Have something done in a while."""
        self._later.append((time.monotonic() + seconds, what))

    def keep_down(self, part: str, seconds: float) -> None:
        """A part that is down stays so for a while."""
        self._not_before[part] = time.monotonic() + seconds

    @property
    def calm(self) -> bool:
        """Whether nothing is still to be done."""
        return not self._later

    # ---- who there is

    def controllers(self) -> list[int]:
        return [self._pids[name] for name in self._pids if name.startswith("controller") and self._lives(name)]

    def head(self) -> int | None:
        return self._pids["head"] if self._lives("head") else None

    def coordinators(self, node: int | None = None) -> list[int]:
        """Those that carry jobs out; only those of one node where it is given."""
        with suppress(OSError):  # the head may be down
            self._ever |= ask(self.said / "head", {"what": "all"})
        attempts = {pid: int(name.rpartition("-a")[2]) for name, pid in self._ever.items()}
        there = {pid for pid, attempt in attempts.items() if node is None or attempt % self.nodes == node}
        return [pid for pid in attempts if pid in there and _is_at_work(pid)]

    @property
    def nodes(self) -> int:
        """How many nodes coordinators run on in turn."""
        return len(self._urls)

    def workers(self) -> list[int]:
        found: list[int] = []
        for file in self.said.glob("workers-*.pids"):
            with suppress(OSError):
                found += [pid for pid in map(int, file.read_text().split()) if _is_at_work(pid)]
        return found

    # ---- the database

    def database_lives(self) -> bool:
        """Whether it answers."""
        if self.server is None:
            return True
        try:
            psycopg.connect(self.server.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill_database(self) -> bool:
        """Every process of the server at once; nothing is flushed. False where it has none of its own."""
        if self.server is None:
            return False
        return self.server.kill()

    # ---- ends

    def end(self, pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal to a part; False where it has ended by itself."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def logs(self) -> str:
        """The end of what every part but the workers has said."""
        files = [file for file in sorted(self.said.glob("*.log")) if not file.name.startswith("worker")]
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-6000:]}" for file in files)

    def _start(self, name: str, **arguments: object) -> None:
        part = name.partition("-")[0]
        log = self.said / f"{name}.log"
        if part == "head":
            arguments |= {"path": str(self.said / "head"), "seconds": UNIT_SECONDS}
        else:
            arguments |= {"head": str(self.said / "head")}
        self._pids[name] = processes.start(self.nursery.path, part, log, **arguments)

    def _lives(self, name: str) -> bool:
        return name in self._pids and processes.code_of(self.nursery.path, self._pids[name]) is None

    def _may_start(self, name: str) -> bool:
        return time.monotonic() >= self._not_before.get(name, 0.0)


def _is_at_work(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def town(place: Path, said: Path, server: PostgresServer | None) -> Iterator[Town]:
    """A town with folders of its own below `place` and `said`; nothing runs in it before it is tended."""
    hurry()
    place.mkdir()
    said.mkdir()
    jobs = place / "jobs"
    jobs.mkdir()
    url = f"sqlite:///{place / 'town.db'}" if server is None else server.new_database()
    proxies = [] if server is None else [Proxy(server.port), Proxy(server.port)]
    nursery = Nursery(said / "nursery")
    here = None
    try:
        here = Town(said, jobs, nursery, server, url, proxies)
        yield here
    finally:
        nursery.close()
        for proxy in proxies:
            proxy.close()
        if here is not None:
            here.database.dispose()


def fill(folder: Path) -> Path:
    """Fill the folder's file system to its last byte; the file to remove afterwards."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        room = os.statvfs(folder)
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize))
        while True:  # what has become free since
            file.seek(0, os.SEEK_END)
            file.write(bytes(1 << 12))
    return ballast
