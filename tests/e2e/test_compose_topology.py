"""The services of docker/compose.yaml, with the commands written there, as processes of this machine.

Where tests run there is seldom a container engine. What differs from one is listed in `Town.here`: names of hosts,
ports, the folder of the secrets. PostgreSQL and the proxy come from packages.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml
from sqlalchemy import make_url

from tests.conftest import Tiny
from tests.e2e.commandline import job_content, processes_of
from tests.postgres import PostgresServer

pytestmark = pytest.mark.timeout(1800)

DOCKER = Path(__file__).resolve().parents[2] / "docker"
PORTS = ("gcs", "ray dashboard", "ray client", "dashboard", "proxy", "proxy of ray")
CADDY = str(Path(sys.executable).with_name("caddy"))
PERSON, PASSWORD = "ada", "a-password-of-this-test"
# What the image does that the compose file gives no command.
IMAGE_COMMANDS = {"proxy": [CADDY, "run", "--config", "../Caddyfile", "--adapter", "caddyfile"]}
TOKEN = "a-token-of-this-test"
PATIENCE = 900
RESTARTS = 5


class Town:
    """The compose file's services, each in a session and a home of its own."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.jobs = folder / "jobs"
        self.services: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
        self.ports = {name: _free_port() for name in PORTS}
        self._restarts = 0
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        # The path of a Unix socket may have no more than 107 characters, and Ray's are long.
        self._short = Path(tempfile.mkdtemp(prefix="mo-", dir="/tmp"))
        self.jobs.mkdir()
        (folder / "bin").mkdir()
        (folder / "bin" / "mergeopt-controller").symlink_to(DOCKER / "controller.sh")
        (folder / "secrets").mkdir()
        (folder / "secrets" / "database_url").write_text(database_url)
        (folder / "secrets" / "ray_token").write_text(TOKEN)
        hashed = subprocess.run([CADDY, "hash-password", "--plaintext", PASSWORD], capture_output=True, check=True)
        (folder / "secrets" / "dashboard_users").write_text(f"{PERSON} {hashed.stdout.decode()}")
        (folder / "Caddyfile").write_text(self.here((DOCKER / "Caddyfile").read_text()))

    def here(self, text: str) -> str:
        """A line of the compose file, as it must read where all services share one machine."""
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        for there, here in {
            "head:6379": f"127.0.0.1:{self.ports['gcs']}",
            "--port=6379": f"--port={self.ports['gcs']}",
            "--dashboard-host=0.0.0.0": "--dashboard-host=127.0.0.1",
            "head:8265": f"127.0.0.1:{self.ports['ray dashboard']}",
            ":8000 {": f":{self.ports['proxy']} {{",
            ":8001 {": f":{self.ports['proxy of ray']} {{",
            ":8000/": f":{self.ports['proxy']}/",
            "8265": str(self.ports["ray dashboard"]),
            "10001": str(self.ports["ray client"]),
            "8080": str(self.ports["dashboard"]),
            "/run/secrets": str(self.folder / "secrets"),
        }.items():
            text = text.replace(there, here)
        return text

    def start(self, service: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a service by its entry point and command; `arguments` stand in the command's place."""
        written = {"command": IMAGE_COMMANDS.get(service, []), **self.services[service]}
        command = [*written.get("entrypoint", []), *(arguments or map(self.here, written["command"]))]
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.jobs,
                env=self._environment(service),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if arguments else log,
                stderr=log,
                start_new_session=True,
            )
        self._started[service] = process
        return process

    def stop(self, service: str) -> subprocess.Popen[bytes]:
        """Ask a service to end, as the engine does."""
        process = self._started[service]
        process.send_signal(signal.SIGTERM)
        return process

    def run(self, *arguments: str, service: str = "cli") -> str:
        """`mergeopt` in the service `cli`, or another service to its end; what it prints."""
        process = self.start(service, *(arguments or self.services[service]["command"]))
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, f"{arguments} ended {process.returncode}:\n{self.said()}"
        return out.decode()

    def wait_until_healthy(self, service: str) -> None:
        """As the compose file's health check has it."""
        _, *check = map(self.here, self.services[service]["healthcheck"]["test"])
        environment = self._environment(service)

        def healthy() -> bool:
            return subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0

        self.wait_for(healthy, f"{service} is healthy")

    def wait_for(self, reached: Callable[[], bool], what: str) -> None:
        """Look again and again until something is so, as long as it takes."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            self._restart_what_ended()
            assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}\n{self.said()}"
            time.sleep(1)

    def _restart_what_ended(self) -> None:
        """As the engine does. On a busy machine a node of Ray's can take longer than the 30 s that Ray grants it."""
        for service, process in list(self._started.items()):
            if self.services[service]["restart"] == "unless-stopped" and process.poll() is not None:
                self._restarts += 1
                assert self._restarts < RESTARTS, self.said()
                self._kill(process)
                self.start(service)

    def said(self) -> str:
        """The end of every service's log."""
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))

    def logs(self) -> list[Path]:
        """Every file that a service wrote for people to read, Ray's among them."""
        rays = (file for file in self._short.glob("*/ray/session_2*/logs/**/*") if file.is_file())
        return [*self.folder.glob("*.log"), *rays]

    def close(self) -> None:
        """End every process of every service, also what a failed test left behind."""
        for process in self._started.values():
            self._kill(process)
        shutil.rmtree(self._short, ignore_errors=True)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        left = processes_of(process.pid)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=60)
        process.wait(timeout=60)

    def _environment(self, service: str) -> dict[str, str]:
        """Nothing of this process's, so that the compose file must say all that a service needs."""
        home = self.folder / "home" / service
        home.mkdir(parents=True, exist_ok=True)
        written = {name: self.here(str(value)) for name, value in self.services[service].get("environment", {}).items()}
        return {
            "PATH": os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(home),
            "RAY_TMPDIR": str(self._short / service),
            "RAY_USAGE_STATS_ENABLED": "0",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            **written,
        }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _status(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> int:
    try:
        with urlopen(Request(url, headers=headers or {}, method=method), timeout=60) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """The services, on their way; the head is up."""
    postgres = PostgresServer()
    try:
        here = Town(tmp_path_factory.mktemp("town"), postgres.new_database())
        try:
            here.start("head")
            here.wait_until_healthy("head")
            here.run(service="upgrade")
            for service in ("worker", "controller", "dashboard", "proxy"):
                here.start(service)
            yield here
        finally:
            here.close()
    finally:
        postgres.close()


def _submitted(town: Town, tiny: Tiny, name: str, trials: int) -> None:
    file = town.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(job_content(tiny, name, trials=trials, search_examples=10), sort_keys=False))
    assert town.run("submit", str(file)).strip() == name


def _job(town: Town, name: str) -> Any:
    (job,) = (one for one in json.loads(town.run("jobs", "--json")) if one["name"] == name)
    assert job["state"] in ("queued", "running", "done"), town.said()
    return job


def test_a_job_submitted_to_the_compose_services_is_done_and_exported(town: Town, tiny: Tiny) -> None:
    _submitted(town, tiny, "small", trials=10)
    town.wait_for(lambda: _job(town, "small")["state"] == "done", "the job is done")
    town.run("export", "small", "best")
    assert list((town.jobs / "best").glob("*.safetensors"))
    assert (town.jobs / "mergeopt-jobs" / "small" / "report.html").exists()


def test_ray_answers_nobody_without_the_token(town: Town) -> None:
    api = f"http://127.0.0.1:{town.ports['ray dashboard']}/api/jobs/"
    assert _status(api) == 401
    assert _status(api, {"X-Ray-Authorization": "Bearer another"}) == 403
    assert _status(api, {"X-Ray-Authorization": f"Bearer {TOKEN}"}) == 200


def test_dashboards_are_shown_to_who_has_the_password_and_changed_by_nobody(town: Town) -> None:
    town.wait_until_healthy("proxy")
    town.wait_until_healthy("dashboard")
    optuna, ray = f"http://127.0.0.1:{town.ports['proxy']}", f"http://127.0.0.1:{town.ports['proxy of ray']}"
    known = {"Authorization": "Basic " + base64.b64encode(f"{PERSON}:{PASSWORD}".encode()).decode()}
    unknown = {"Authorization": "Basic " + base64.b64encode(f"{PERSON}:another".encode()).decode()}
    for page in (f"{optuna}/api/studies", f"{ray}/api/jobs/"):
        assert _status(page) == 401
        assert _status(page, unknown) == 401
        assert _status(page, known) == 200
        assert _status(page, known, "POST") == 403


def test_no_service_says_a_secret(town: Town) -> None:
    password = make_url((town.folder / "secrets" / "database_url").read_text()).password
    logs = town.logs()
    assert any(log.name == "raylet.out" for log in logs)
    for secret in (password, TOKEN, PASSWORD):
        assert secret
        assert [log for log in logs if secret in log.read_text(errors="replace")] == []


def test_a_controller_that_is_stopped_gives_its_job_to_the_next_one_and_takes_its_node_along(
    town: Town, tiny: Tiny
) -> None:
    _submitted(town, tiny, "handed-on", trials=60)
    town.wait_for(lambda: "search:" in town.run("logs", "handed-on"), "the search is under way")
    controller = town.stop("controller")
    assert controller.wait(timeout=120) == 0, town.said()
    _, left = psutil.wait_procs(processes_of(controller.pid), timeout=60)
    assert left == []
    assert _job(town, "handed-on")["state"] == "queued"
    town.start("controller")
    town.wait_for(lambda: _job(town, "handed-on")["state"] == "done", "the job is done")
    assert _job(town, "handed-on")["attempt"] == 2
