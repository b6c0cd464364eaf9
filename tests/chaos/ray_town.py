"""A real service on one machine: Ray nodes, controllers on two of them, PostgreSQL; each its own session of processes.

Whatever ends is started again, as a service manager would. Nothing here is shortened.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml
from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from optimizer.database import normalise_url, open_database
from optimizer.jobs import get_job
from optimizer.tables import jobs, log_lines, outcomes
from tests.conftest import Tiny
from tests.e2e.commandline import MERGEOPT, job_content
from tests.postgres import PostgresServer, StartError

CONTROLLER = str(Path(__file__).resolve().parents[2] / "docker" / "controller.sh")
RAY = str(Path(sys.executable).with_name("ray"))
PATIENCE = 900.0
WORKERS = ("worker-1", "worker-2")
CONTROLLERS = ("controller-1", "controller-2")


class RayTown:
    """Head, worker nodes and controllers with their nodes, started as they are when they are first tended."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        port, agent = _free_port(), _free_port()  # Ray's own choice for the agent is one for the whole machine
        self.folder, self.server = folder, server
        self.url = server.new_database()
        self.address = f"127.0.0.1:{port}"
        self.eyes = create_engine(normalise_url(self.url), poolclass=NullPool)
        open_database(self.url).dispose()
        (folder / "url").write_text(self.url)
        (folder / "token").write_text(secrets.token_hex(32))
        # The path of a Unix socket may have no more than 107 characters, and Ray's are long.
        self._short = Path(tempfile.mkdtemp(prefix="mo-", dir="/tmp"))
        node = [RAY, "start", "--disable-usage-stats", "--block"]
        ports = [f"--port={port}", "--dashboard-port=0", f"--dashboard-agent-listen-port={agent}"]
        self._commands = {
            "head": [*node, "--head", *ports, "--num-cpus=0", "--include-dashboard=true"],
            **{name: [*node, f"--address={self.address}", "--num-cpus=1"] for name in WORKERS},
            **{name: [CONTROLLER, self.address] for name in CONTROLLERS},
        }
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._not_before: dict[str, float] = {}

    def tend(self) -> None:
        """Start what has ended; nodes need a head to come to."""
        if not self.database_lives() and self._may_start("database"):
            with contextlib.suppress(StartError):  # its old processes are still ending
                self.server.start()
        for name in self._commands:
            process = self._started.get(name)
            if process is None or process.poll() is not None:
                if process is not None:
                    self.kill(name)
                if self._may_start(name):
                    self._start(name)
                    self._not_before[name] = time.monotonic() + 5.0
                if name == "head":
                    return

    def wait_for(self, reached: Callable[[], bool], what: str, patience: float = PATIENCE) -> float:
        """Look again and again until something is so; how many seconds it took."""
        began = time.monotonic()
        while not reached():
            self.tend()
            assert time.monotonic() - began < patience, f"not within {patience} s: {what}\n{self.said()}"
            time.sleep(0.5)
        return time.monotonic() - began

    def submit(self, tiny: Tiny, name: str, examples: int, **content: object) -> None:
        """Put a job in the queue by the installed command; `content` replaces keys of its file."""
        file = self.folder / f"{name}.yaml"
        whole = job_content(tiny, name, search_examples=examples) | content
        file.write_text(yaml.safe_dump(whole, sort_keys=False))
        self.run("submit", str(file))

    def run(self, *arguments: str) -> str:
        """`mergeopt` to its end; what it prints."""
        ended = subprocess.run(
            [MERGEOPT, *arguments], cwd=self.folder, env=self._environment(), capture_output=True, check=False
        )
        assert ended.returncode == 0, f"{arguments} ended {ended.returncode}:\n{ended.stderr.decode()}"
        return ended.stdout.decode()

    # ---- what one sees from outside

    def state(self, name: str) -> str:
        """The job's state, or `unseen` where the database is down."""
        return str(self._scalar(select(jobs.c.state).where(jobs.c.name == name), "unseen"))

    def recorded(self, name: str, after: int = 0) -> int:
        """How many rounds of the job are recorded by attempts after this one."""
        chosen = select(func.count()).select_from(outcomes).join(jobs, jobs.c.id == outcomes.c.job_id)
        return int(self._scalar(chosen.where(jobs.c.name == name, outcomes.c.attempt > after), 0))

    def spoke(self, name: str, after: int) -> bool:
        """Whether a coordinator of a later attempt than this one has taken the job over, and says so."""
        chosen = select(func.count()).select_from(log_lines).join(jobs, jobs.c.id == log_lines.c.job_id)
        return bool(self._scalar(chosen.where(jobs.c.name == name, log_lines.c.attempt > after), 0))

    def attempt(self, name: str) -> int:
        """The number of the job's last attempt."""
        database = open_database(self.url)
        try:
            return get_job(database, name).attempt
        finally:
            database.dispose()

    def database_lives(self) -> bool:
        """Whether it answers."""
        return self._scalar(select(1), None) is not None

    # ---- victims

    def coordinators(self) -> list[psutil.Process]:
        """The coordinators themselves, not the shells that Ray starts them by."""
        return [one for one in self._all() if "optimizer.coordinate" in _words(one)[1:4]]

    def workers(self) -> list[psutil.Process]:
        """Processes that score."""
        return [one for one in self._all() if " ".join(_words(one)).startswith("ray::Worker")]

    def controllers(self) -> list[psutil.Process]:
        """`mergeopt serve`."""
        return [one for one in self._all() if "serve" in _words(one) and MERGEOPT in _words(one)]

    def kill(self, name: str) -> int:
        """Every process of a node at once, also those whose main process has ended."""
        left = [one for one in self._all() if _said(one, "RAY_TMPDIR") == str(self._short / name)]
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=60)
        self._started[name].wait(timeout=60)
        return len(left)

    def keep_down(self, name: str, seconds: float) -> None:
        """A part that ends stays so for a while."""
        self._not_before[name] = time.monotonic() + seconds

    def said(self) -> str:
        """The end of every part's log."""
        return "\n".join(f"== {log.name}\n{log.read_text()[-4000:]}" for log in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """End every process of every part."""
        for name in self._started:
            self.kill(name)
        self.eyes.dispose()
        shutil.rmtree(self._short, ignore_errors=True)

    def _all(self) -> list[psutil.Process]:
        """What was started here, whoever has adopted it: Ray gives coordinators sessions of their own."""
        ours = str(self.folder / "url")
        return [one for one in psutil.process_iter() if _said(one, "MERGEOPT_STORAGE_FILE") == ours]

    def _start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._started[name] = subprocess.Popen(
                self._commands[name],
                cwd=self.folder,
                env=self._environment() | {"RAY_TMPDIR": str(self._short / name)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _may_start(self, name: str) -> bool:
        return time.monotonic() >= self._not_before.get(name, 0.0)

    def _scalar(self, statement: object, otherwise: object) -> object:
        try:
            with self.eyes.connect() as connection:
                return connection.scalar(statement)  # type: ignore[call-overload]
        except DBAPIError:
            return otherwise

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MERGEOPT_", "RAY_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        service = {"MERGEOPT_STORAGE_FILE": str(self.folder / "url"), "RAY_USAGE_STATS_ENABLED": "0"}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.folder / "token")}
        return kept | {"PATH": path} | offline | service | token


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _said(process: psutil.Process, variable: str) -> str | None:
    """A variable of a living process's environment."""
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process.environ().get(variable) if alive else None
    except (psutil.Error, OSError):
        return None


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
