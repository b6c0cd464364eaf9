"""A controller over a cluster that is a dictionary: what it starts, follows, buries, gives back and gives up."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from optimizer.cluster.jobs import RayAway, Told
from optimizer.jobs import Job, adopt, create_job, finish, get_job
from optimizer.requests import request_cancel
from optimizer.serve import ATTEMPTS, Controller
from optimizer.tables import jobs


@dataclass
class Cluster:
    """Coordinators by name; a test says how each of them does."""

    started: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)
    away: bool = False

    def ping(self) -> None:
        if self.away:
            raise RayAway("nobody answers")

    def start(self, name: str, entrypoint: str) -> None:
        self.ping()
        assert "optimizer.coordinate" in entrypoint
        self.started.append(name)
        self.told[name] = Told("under way")

    def ask(self, name: str) -> Told:
        self.ping()
        return self.told.get(name, Told("unknown", "never heard of it"))

    def log(self, name: str) -> str:
        return f"what {name} printed\nKilled\n"

    def stop(self, name: str) -> None:
        self.stopped.append(name)


@dataclass
class Lines:
    """What was said."""

    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def search(self, standings: object) -> None:
        raise AssertionError(standings)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def _controller(database: Engine, cluster: Cluster, most: int = 2) -> Controller:
    return Controller(database, cluster, Path("/url"), Lines(), most)  # type: ignore[arg-type]


def _submit(database: Engine, *names: str) -> None:
    for name in names:
        create_job(database, name, {}, {}, "", "ada")


def _adopted(database: Engine, name: str) -> Job:
    """The coordinator has come up."""
    job = get_job(database, name)
    return adopt(database, job.id, job.attempt, "coordinator:1:abc", 30.0)


def test_as_many_jobs_are_carried_out_at_a_time_as_were_asked_for(database: Engine, cluster: Cluster) -> None:
    _submit(database, "a", "b", "c")
    controller = _controller(database, cluster)
    assert [controller.look() for _ in range(3)] == [True, True, False]
    assert len(cluster.started) == 2
    done = _adopted(database, "a")
    finish(database, done.id, done.attempt, "done")
    cluster.told[cluster.started[0]] = Told("ended")
    assert controller.look()
    assert [get_job(database, name).state for name in "abc"] == ["done", "running", "running"]


def test_a_coordinator_that_died_is_started_again_with_the_reason_on_the_job(
    database: Engine, cluster: Cluster
) -> None:
    _submit(database, "a")
    controller = _controller(database, cluster)
    controller.look()
    _adopted(database, "a")
    cluster.told[cluster.started[0]] = Told("ended", "exit code -9")
    controller.look()
    died = get_job(database, "a")
    assert (died.state, died.attempt, died.deaths, died.error) == ("queued", 1, 1, "exit code -9 Killed")
    _rested(database)
    assert controller.look()
    assert get_job(database, "a").attempt == 2
    assert len(set(cluster.started)) == 2


def test_a_job_that_kills_every_coordinator_is_given_up_with_the_last_reason(
    database: Engine, cluster: Cluster
) -> None:
    _submit(database, "a")
    controller = _controller(database, cluster)
    for _ in range(ATTEMPTS):
        _rested(database)
        assert controller.look()
        cluster.told[cluster.started[-1]] = Told("ended", "exit code -9")
        controller.look()
    _rested(database)
    controller.look()
    failed = get_job(database, "a")
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.startswith(f"given up after {ATTEMPTS} attempts in a row")
    assert failed.error.endswith("the last one: exit code -9 Killed")
    assert len(cluster.started) == ATTEMPTS


def _rested(database: Engine) -> None:
    with database.begin() as connection:
        connection.execute(update(jobs).values(not_before=None))


def test_no_job_is_taken_while_the_cluster_does_not_answer(database: Engine, cluster: Cluster) -> None:
    _submit(database, "a")
    controller = _controller(database, cluster)
    cluster.away = True
    assert not controller.look()
    assert (get_job(database, "a").state, get_job(database, "a").attempt) == ("queued", 0)
    cluster.away = False
    assert controller.look()


def test_a_head_that_was_started_anew_has_forgotten_the_coordinator_and_the_job_goes_on(
    database: Engine, cluster: Cluster
) -> None:
    _submit(database, "a")
    controller = _controller(database, cluster)
    controller.look()
    _adopted(database, "a")
    controller.look()
    cluster.told.clear()
    controller.look()
    _rested(database)
    assert controller.look()
    assert get_job(database, "a").attempt == 2


def test_a_stopped_controller_has_its_coordinators_end_and_puts_their_jobs_back(
    database: Engine, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.serve.STOP_SECONDS", 0.5)
    _submit(database, "a", "b")
    controller = _controller(database, cluster)
    for _ in range(2):
        controller.look()
    _adopted(database, "a")
    request_cancel(database, "b")
    controller.stop()
    assert set(cluster.started) <= set(cluster.stopped)
    assert [get_job(database, name).state for name in "ab"] == ["queued", "cancelled"]
    assert get_job(database, "a").deaths == 0


def test_a_coordinator_whose_job_was_taken_over_is_ended(
    database: Engine, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optimizer.serve.END_SECONDS", 0.0)
    _submit(database, "a")
    controller = _controller(database, cluster, most=1)
    controller.look()
    held = _adopted(database, "a")
    with database.begin() as connection:
        connection.execute(update(jobs).values(attempt=held.attempt + 1))
    controller.look()
    controller.look()
    assert cluster.started[0] in cluster.stopped
    cluster.told[cluster.started[0]] = Told("ended", "stopped")
    controller.look()
    assert not controller.busy
    assert get_job(database, "a").attempt == held.attempt + 1
