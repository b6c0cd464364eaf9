"""What Prometheus reads of a service: over HTTP, from a real database of each kind, and when that is away."""

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, update

from optimizer.counts import Counts
from optimizer.database import open_database
from optimizer.errors import InputError
from optimizer.jobs import Job, create_job, finish
from optimizer.lease import LEASE_SECONDS
from optimizer.metrics import metrics_page
from optimizer.outcomes import Columns, record_outcomes
from optimizer.overview import PATIENCE, look
from optimizer.queue import claim_next
from optimizer.requests import request_pause, requeue
from optimizer.study import open_storage, open_study
from optimizer.tables import audit, jobs
from tests.postgres import PostgresServer

Page = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _read(port: int) -> Page:
    """The samples of a page, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _of(page: Page, name: str, **labels: str) -> float:
    return page[f"mergeopt_{name}", tuple(sorted(labels.items()))]


def _running(database: Engine) -> Job:
    job = claim_next(database, "another-machine:1:abc", LEASE_SECONDS)
    assert job is not None
    return job


def _score(database: Engine, job: Job, trial: int, count: int, seconds: float) -> None:
    columns = Columns(np.arange(count, dtype=np.int32), np.ones(count))
    told = {"trial": trial, "split": "search", "round": 0, "digest": "d", "worker": "w"}
    record_outcomes(database, job.id, job.attempt, columns=columns, seconds=seconds, **told)  # type: ignore[arg-type]


@pytest.fixture
def service(database_url: str) -> Iterator[tuple[Engine, str]]:
    """A database with our tables, and its URL."""
    engine = open_database(database_url)
    yield engine, engine.url.render_as_string(hide_password=False)
    engine.dispose()


def test_a_page_says_how_queue_and_running_jobs_are(service: tuple[Engine, str]) -> None:
    database, url = service
    for name in ("ended", 'a "quoted" name', "waiting", "by hand"):
        create_job(database, name, {}, {}, "", served=name != "by hand")
    done = _running(database)
    finish(database, done.id, done.attempt, "done")
    job = _running(database)
    study = open_study(open_storage(url), job.name, ["score"])
    for value in (0.5, 0.7):
        study.tell(study.ask(), value)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.ask()
    _score(database, job, 0, 40, 1.5)
    _score(database, job, 1, 40, 2.5)
    request_pause(database, job.name)
    with metrics_page(url, "127.0.0.1", 0, Counts(coordinators=1, cluster_up=True, looks=7, started=2)) as port:
        page = _read(port)
    assert _of(page, "database_up") == 1
    assert [_of(page, "jobs", state=state) for state in ("queued", "running", "done", "failed")] == [2, 1, 1, 0]
    assert _of(page, "queue_jobs") == 1
    assert 0 <= _of(page, "queue_oldest_seconds") < 60
    assert [_of(page, "requests_open", request=request) for request in ("pause", "cancel")] == [1, 0]
    assert (_of(page, "job_attempts", job=job.name), _of(page, "job_deaths", job=job.name)) == (1, 0)
    left, age = (_of(page, f"job_lease_{what}_seconds", job=job.name) for what in ("left", "age"))
    assert 0 < left < LEASE_SECONDS
    assert left + age == pytest.approx(LEASE_SECONDS)
    states = {state: _of(page, "job_trials", job=job.name, state=state) for state in ("complete", "fail", "running")}
    assert states == {"complete": 2, "fail": 1, "running": 1}
    assert _of(page, "job_examples_total", job=job.name) == 80
    assert _of(page, "job_scoring_seconds_total", job=job.name) == 4.0
    assert {labels for name, labels in page if name == "mergeopt_job_attempts"} == {(("job", job.name),)}
    controller = ("coordinators", "cluster_up", "looks_total", "coordinators_started_total", "database_retries_total")
    assert [_of(page, f"controller_{what}") for what in controller] == [1, 1, 7, 2, 0]


def test_a_job_waits_since_it_came_into_the_queue_last_however_long_ago_it_was_submitted(database: Engine) -> None:
    week = 7 * 86400
    create_job(database, "old", {}, {}, "")
    create_job(database, "by hand", {}, {}, "", served=False)
    with database.begin() as connection:
        connection.execute(update(jobs).values(created_at=datetime.now(UTC) - timedelta(seconds=week)))
        connection.execute(update(audit).values(at=datetime.now(UTC) - timedelta(seconds=week)))
    assert _oldest(database) == pytest.approx(week, abs=60)
    request_pause(database, "old")
    requeue(database, "old")
    assert _oldest(database) < 60
    requeue(database, "by hand", served=True)
    assert _oldest(database) < 60


def _oldest(database: Engine) -> float:
    with database.connect() as connection:
        return look(connection).oldest


def test_two_controllers_say_the_same_of_jobs_and_each_its_own_of_itself(service: tuple[Engine, str]) -> None:
    database, url = service
    create_job(database, "small", {}, {}, "")
    with (
        metrics_page(url, "127.0.0.1", 0, Counts(looks=1)) as first,
        metrics_page(url, "127.0.0.1", 0, Counts(looks=2)) as second,
    ):
        pages = [_read(first), _read(second)]
    assert [_of(page, "jobs", state="queued") for page in pages] == [1, 1]
    assert [_of(page, "controller_looks_total") for page in pages] == [1, 2]


def test_a_database_that_is_down_is_a_metric_and_comes_back_by_itself(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    open_database(url).dispose()
    with metrics_page(url, "127.0.0.1", 0, Counts(looks=3)) as port:
        assert _of(_read(port), "database_up") == 1
        postgres.stop()
        try:
            page = _read(port)
        finally:
            postgres.start()
        assert (_of(page, "database_up"), _of(page, "controller_looks_total")) == (0, 3)
        assert not [name for name, _ in page if name.startswith("mergeopt_job")]
        assert _of(_read(port), "database_up") == 1


def test_a_server_that_takes_calls_and_never_answers_holds_no_page_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql://ada:long-secret@127.0.0.1:{mute.getsockname()[1]}/jobs"
        with metrics_page(url, "127.0.0.1", 0, Counts()) as port:
            began = time.monotonic()
            pages: list[Page] = []
            readers = [threading.Thread(target=lambda: pages.append(_read(port))) for _ in range(5)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            assert [_of(page, "database_up") for page in pages] == [0] * 5
            assert time.monotonic() - began < 2 * PATIENCE
            looks = [thread for thread in threading.enumerate() if thread.name == "metrics"]
            assert len(looks) <= 1


def test_a_port_that_is_taken_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=rf"{number} of 127.0.0.1 cannot be used .*--metrics-port"),
            metrics_page(str(tmp_path / "a.db"), "127.0.0.1", number, Counts()),
        ):
            pass


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.77", ""])
def test_a_host_that_is_not_this_machine_is_refused_as_such(tmp_path: Path, host: str) -> None:
    with (
        pytest.raises(InputError, match=rf"--metrics-host must be .*but is '{host}'.*0\.0\.0\.0") as refused,
        metrics_page(str(tmp_path / "a.db"), host, 0, Counts()),
    ):
        pass
    assert "--metrics-port" not in str(refused.value)
