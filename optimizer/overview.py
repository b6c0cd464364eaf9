"""What a service is doing now, by a handful of queries that stay cheap however many jobs there were.

They are for whoever watches from outside and must not wait: a look is given up after seconds, and never repeated.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, column, func, inspect, select, table
from sqlalchemy.exc import SQLAlchemyError

from optimizer.audit import QUEUED_BY
from optimizer.database import connect, normalise_url
from optimizer.queue import counted
from optimizer.tables import DatabaseClock, audit, jobs, outcomes

PATIENCE = 5.0  # seconds; Prometheus itself waits for ten
MOST_JOBS = 200  # that are told of one by one: the newest of those that run
_STUDIES = table("studies", column("study_id"), column("study_name"))  # Optuna's, without loading Optuna
_TRIALS = table("trials", column("study_id"), column("state"))

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningJob:
    """A job that is carried out now, and how far it is. `scored` and `seconds` are over all its attempts."""

    name: str
    attempt: int
    deaths: int
    lease_left: float
    trials: Mapping[str, int]
    scored: int
    seconds: float


@dataclass(frozen=True)
class Seen:
    """One look at the database. `oldest`: seconds that the job which waits longest has been in the queue, this time."""

    states: Mapping[str, int]
    queued: int
    oldest: float
    requests: Mapping[str, int]
    running: tuple[RunningJob, ...]


def look(connection: Connection) -> Seen:
    """Everything the metrics say of jobs, by a handful of queries that each read an index or the rows of few jobs."""
    waiting = select(func.count(), DatabaseClock() - func.min(_queued_at(), type_=DatabaseClock.type))
    queued, oldest = connection.execute(waiting.where(jobs.c.state == "queued", jobs.c.served)).one()
    asked = select(jobs.c.request, func.count()).where(jobs.c.state == "running", jobs.c.request.is_not(None))
    return Seen(
        states={str(state): many for state, many in counted(connection).items()},
        queued=queued,
        oldest=oldest or 0.0,
        requests=dict(connection.execute(asked.group_by(jobs.c.request)).tuples().all()),
        running=tuple(_running(connection)),
    )


def _queued_at() -> ColumnElement[Any]:
    """When a queued job last came into the queue. The audit trail says, but of jobs that are older than the trail."""
    came = select(func.max(audit.c.at)).where(audit.c.job_id == jobs.c.id, audit.c.action.in_(QUEUED_BY))
    return func.coalesce(came.scalar_subquery(), jobs.c.created_at)


def _running(connection: Connection) -> Iterator[RunningJob]:
    left = jobs.c.lease_until - DatabaseClock()
    chosen = select(jobs.c.id, jobs.c.name, jobs.c.attempt, jobs.c.deaths, left).where(jobs.c.state == "running")
    rows = connection.execute(chosen.order_by(jobs.c.id.desc()).limit(MOST_JOBS)).all()
    if not rows:
        return
    trials = _trials(connection, [row.name for row in rows])
    sums = select(outcomes.c.job_id, func.sum(outcomes.c.n), func.sum(outcomes.c.seconds))
    sums = sums.where(outcomes.c.job_id.in_([row.id for row in rows])).group_by(outcomes.c.job_id)
    scored = {job: (int(n), float(seconds)) for job, n, seconds in connection.execute(sums)}
    for job, name, attempt, deaths, lease_left in rows:
        yield RunningJob(name, attempt, deaths, lease_left, trials.get(name, {}), *scored.get(job, (0, 0.0)))


def _trials(connection: Connection, names: list[str]) -> dict[str, dict[str, int]]:
    """Trials by state, by the name of the study, which is the job's. The first job makes Optuna's tables."""
    if not inspect(connection).has_table("trials"):
        return {}
    counted = (
        select(_STUDIES.c.study_name, _TRIALS.c.state, func.count())
        .join(_TRIALS, _TRIALS.c.study_id == _STUDIES.c.study_id)
        .where(_STUDIES.c.study_name.in_(names))
        .group_by(_STUDIES.c.study_name, _TRIALS.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for name, state, count in connection.execute(counted):
        found.setdefault(name, {})[state.lower()] = count
    return found


class Reader:
    """Looks at the database in a thread, so that whoever asks can stop waiting for it."""

    def __init__(self, engine: Engine, patience: float = PATIENCE) -> None:
        self._engine, self._patience = engine, patience
        self._lock = threading.Lock()
        self._under_way: _Look | None = None

    def latest(self) -> Seen | None:
        """What is there now; None where the database does not answer. Those who ask at once share a look."""
        with self._lock:
            if self._under_way is None or not self._under_way.is_alive():
                self._under_way = _Look(self._engine)
                self._under_way.start()
            under_way = self._under_way
        under_way.join(self._patience)
        return None if under_way.is_alive() else under_way.seen


class _Look(threading.Thread):
    def __init__(self, engine: Engine) -> None:
        super().__init__(name="metrics", daemon=True)
        self._engine = engine
        self.seen: Seen | None = None

    def run(self) -> None:
        try:
            with self._engine.connect() as connection:
                self.seen = look(connection)
        except SQLAlchemyError as error:  # the page says so; the database's own log says why
            _log.debug("no look at the database: %s", error)


def impatient(url: str) -> Engine:
    """An engine for looks: its connections give up early, and are nobody else's."""
    parsed = normalise_url(url)
    if parsed.drivername != "sqlite":
        options = f"{parsed.query.get('options', '')} -c statement_timeout={PATIENCE * 1000:.0f}".strip()
        quick = {"options": options, "connect_timeout": "3", "tcp_user_timeout": f"{PATIENCE * 1000:.0f}"}
        parsed = parsed.update_query_dict(quick)
    return connect(parsed)
