"""The dashboard serves this machine's user, reads only, and shows the jobs' studies."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import pytest

from optimizer.dashboard import make_dashboard
from optimizer.errors import InputError
from tests.integration.search.bench import Bench, FormulaPool, job_file, scored

TRIALS = 16
CHANGES = [
    ("DELETE", "/api/studies/1"),
    ("POST", "/api/studies/1/rename"),
    ("PUT", "/api/studies/1/note"),
    ("PATCH", "/api/studies/1"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A searched job whose parents are trials without parameters, and with one trial that failed."""
    job = job_file(method={"name": "ties", "density": 0.3}, search={"engine": "random", "budget": {"trials": TRIALS}})
    made = Bench(tmp_path_factory.mktemp("bench"), job)
    broken = "`model.norm.weight` must be finite"
    pool = FormulaPool(1, lambda unit: scored(unit, error=broken) if unit.key == "12/search" else None)
    made.attempt(pool).coordinator.search()
    return made


@dataclass(frozen=True)
class Page:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def serving(url: str, writable: bool = False) -> Iterator[WSGIServer]:
    with make_dashboard(url, 0, writable) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(bench: Bench) -> Iterator[WSGIServer]:
    with serving(bench.url) as started:
        yield started


def ask(server: WSGIServer, method: str, path: str, content: Any = None, **headers: str) -> Page:
    """One request; `Host` and `Content-Type` are what a browser on the dashboard's own page sends."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    body = None if content is None else json.dumps(content)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return Page(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


def test_the_job_is_listed_as_a_study_with_its_trials(server: WSGIServer) -> None:
    (study,) = ask(server, "GET", "/api/studies").json()["study_summaries"]
    assert study["study_name"] == "bench"
    detail = ask(server, "GET", f"/api/studies/{study['study_id']}").json()
    assert [trial["state"] for trial in detail["trials"]] == ["Complete"] * 12 + ["Fail"] + ["Complete"] * (TRIALS - 13)
    attributes = {one["key"]: one["value"] for one in detail["trials"][12]["user_attrs"]}
    assert attributes["error"] == "`model.norm.weight` must be finite"
    assert detail["objective_names"] == ["score"]


def test_the_page_itself_is_served(server: WSGIServer) -> None:
    assert ask(server, "GET", "/").headers["Location"].endswith("/dashboard")
    page = ask(server, "GET", "/dashboard")
    assert page.status == 200
    assert b"<title>Optuna Dashboard</title>" in page.body
    assert page.headers["X-Frame-Options"] == "DENY"
    assert "Access-Control-Allow-Origin" not in page.headers


def test_only_this_machine_can_reach_it(server: WSGIServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):  # a server for all addresses would answer on this one too
        socket.create_connection(("127.0.0.2", server.server_port), timeout=60)


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_nothing_can_be_changed(bench: Bench, server: WSGIServer, method: str, path: str) -> None:
    refused = ask(server, method, path, {"study_name": "mine", "body": "mine"})
    assert refused.status == 403
    assert b"read-only; start it with --writable" in refused.body
    assert len(bench.study().trials) == TRIALS


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "evil.example", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_a_name_that_is_not_this_machine_is_refused(server: WSGIServer, host: str) -> None:
    refused = ask(server, "GET", "/api/studies", Host=host.format(port=server.server_port))
    assert refused.status == 403
    assert b"bench" not in refused.body
    assert f"open http://127.0.0.1:{server.server_port}/ instead".encode() in refused.body


def test_localhost_is_this_machine(server: WSGIServer) -> None:
    assert ask(server, "GET", "/api/studies", Host=f"localhost:{server.server_port}").status == 200


def test_a_writable_dashboard_changes_studies_for_its_own_page_and_for_no_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path, job_file(search={"engine": "random", "budget": {"trials": 9}}))
    bench.attempt(FormulaPool()).coordinator.search()
    with serving(bench.url, writable=True) as server:
        for origin in ("http://evil.example", "null", f"https://127.0.0.1:{server.server_port}"):
            refused = ask(server, "DELETE", "/api/studies/1", {}, Origin=origin)
            assert refused.status == 403
            assert b"another site" in refused.body
        assert len(ask(server, "GET", "/api/studies").json()["study_summaries"]) == 1
        own = f"http://127.0.0.1:{server.server_port}"
        assert ask(server, "DELETE", "/api/studies/1", {"remove_associated_artifacts": False}, Origin=own).status == 204
        assert ask(server, "GET", "/api/studies").json()["study_summaries"] == []


@pytest.mark.parametrize("path", ["/api/artifacts/1", "/api/artifacts/1/1", "//api/artifacts/1"])
def test_a_writable_dashboard_takes_no_files_either(bench: Bench, path: str) -> None:
    page = {"file": "data:text/html;base64,PHNjcmlwdD4=", "filename": "page.html"}
    with serving(bench.url, writable=True) as server:
        refused = ask(server, "POST", path, page)
        assert refused.status == 403
        assert b"takes no files" in refused.body
        assert ask(server, "GET", "/api/studies/1").json()["artifacts"] == []


def test_a_port_that_is_taken_is_refused_with_what_to_do(bench: Bench, server: WSGIServer) -> None:
    with pytest.raises(InputError, match=f"port {server.server_port} of 127.0.0.1 cannot be used .*--port"):
        make_dashboard(bench.url, server.server_port)
