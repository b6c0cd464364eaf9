"""The right to work on a job, kept alive by a thread beside the work.

Asking an engine, starting Ray or writing a report may take longer than a lease, so the work does not renew it itself.
The thread stops renewing where the work has not shown itself for half an hour: whoever hangs loses the job like whoever
died.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from sqlalchemy import Engine, select

from optimizer.database import retrying
from optimizer.jobs import Job, LeaseLost, Request, renew
from optimizer.limits import EVERYBODY, all_limits
from optimizer.scorer import Interrupted
from optimizer.shares import Demand, Offer, shares
from optimizer.tables import jobs

LEASE_SECONDS = 30.0
RENEW_SECONDS = 5.0
LISTEN_SECONDS = 1.0
SILENT_SECONDS = 1800.0

_log = logging.getLogger(__name__)


@dataclass
class Lease:
    """One attempt's hold on a job. `stop` is set by whoever wants the work to end early.

    `capacity` says what the cluster has, where several jobs share one: then `workers` is this job's fair share of it.
    """

    database: Engine
    job: Job
    owner: str
    stop: threading.Event
    capacity: Callable[[], Offer | None] = lambda: None
    workers: int | None = None
    _request: Request | None = None
    _error: Exception | None = None
    _seen: float = field(default_factory=time.monotonic)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def held(self) -> Iterator["Lease"]:
        """Renew the lease while the block lasts."""
        thread = threading.Thread(target=self._keep, name=f"lease of {self.job.name}", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(timeout=RENEW_SECONDS)

    def check(self) -> None:
        """Show that the work goes on. Raises `Interrupted` where it should end here, `LeaseLost` where it must."""
        self._seen = time.monotonic()
        if self._error is not None:
            raise self._error
        if self._request is not None:
            raise Interrupted(self._request)
        if self.stop.is_set():
            raise Interrupted("interrupt")

    def _keep(self) -> None:
        renewed_at = time.monotonic()
        while not self._over.wait(min(LISTEN_SECONDS, RENEW_SECONDS)):
            if time.monotonic() - renewed_at < RENEW_SECONDS:
                self._listen()
                continue
            renewed_at = time.monotonic()
            if time.monotonic() - self._seen > SILENT_SECONDS:
                _log.error("nothing has moved for %.0f s; the lease is left to run out", SILENT_SECONDS)
                continue
            try:
                renewed = renew(self.database, self.job.id, self.owner, self.job.attempt, LEASE_SECONDS)
                if renewed is None:
                    self._error = LeaseLost(f"job `{self.job.name}` was taken over by another process; this one stops")
                    return
                self._request = renewed.request
                self._divide()
            except Exception as error:  # whatever it is, the work has to hear of it
                self._error = error
                return

    def _listen(self) -> None:
        """Hear of a request sooner than by the next renewal, which will say whatever goes wrong here."""
        with suppress(Exception), self.database.connect() as connection:  # without patience, which renewals have
            self._request = connection.scalar(select(jobs.c.request).where(jobs.c.id == self.job.id))

    def _divide(self) -> None:
        there = self.capacity()
        if there is not None:
            most = {limit.user: limit.workers for limit in all_limits(self.database)}
            demands = _demands(self.database)
            usual = most.get(EVERYBODY)
            own = {demand.user: most.get(demand.user, usual) for demand in demands}
            self.workers = shares(demands, there, own).get(self.job.id, self.workers)


@retrying
def _demands(engine: Engine) -> list[Demand]:
    """What every running job wants."""
    columns = (jobs.c.id, jobs.c.submitted_by, jobs.c.priority, jobs.c.most_workers, jobs.c.spec)
    with engine.connect() as connection:
        rows = connection.execute(
            select(*columns).where(jobs.c.state == "running", jobs.c.served).order_by(jobs.c.id)
        ).all()
    return [_demand(*row) for row in rows]


def _demand(job: int, user: str, priority: int, most: int | None, spec: dict[str, dict[str, float]]) -> Demand:
    wanted = spec.get("workers", {})
    count = most or int(wanted.get("count", 1))
    return Demand(job, user, priority, count, wanted.get("cpus", 1.0), wanted.get("gpus", 0.0))
