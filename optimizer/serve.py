"""The controller: takes jobs from the queue, and has each carried out by a coordinator on the cluster.

It keeps nothing. Which jobs there are and who holds them is in the database; which coordinators run, the cluster knows.
A controller that dies leaves its coordinators at work, and any other sees by their leases whether they still are.
"""

import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine

from optimizer import logs
from optimizer.audit import deeds
from optimizer.cluster.jobs import RayAway, RayJobs, ray_jobs
from optimizer.coordinate import pause_after
from optimizer.counts import Counts
from optimizer.database import DatabaseAway
from optimizer.jobs import Job, LeaseLost, finish, glance, record_death, release, renew
from optimizer.lease import LEASE_SECONDS
from optimizer.owners import new_owner
from optimizer.progress import Progress
from optimizer.queue import claim_next
from optimizer.signals import stop_requested
from optimizer.url_file import url_file

LOOK_SECONDS = 1.0
ATTEMPTS = 5  # in a row that end without a word and have recorded nothing
START_SECONDS = 600.0  # a coordinator that has not taken its job over by then will not
END_SECONDS = 60.0  # between a job's end and that of its coordinator, which may be writing the report
STOP_SECONDS = 20.0


@dataclass
class _Coordinator:
    """A coordinator that was started here, from the claim to its end."""

    job: Job
    began: float = field(default_factory=time.monotonic)
    adopted: bool = False
    over: float | None = None

    @property
    def name(self) -> str:
        return _name(self.job, self.job.attempt)


def _name(job: Job, attempt: int) -> str:
    """What Ray calls the coordinator of an attempt; services with databases of their own may share a cluster."""
    return f"mergeopt-{job.id}-{round(job.created_at.timestamp() * 1000):x}-a{attempt}"


@dataclass
class Controller:
    """Up to `most` jobs at a time. `url_file` holds the database's URL, where coordinators can read it."""

    database: Engine
    ray: RayJobs
    url_file: Path
    progress: Progress
    most: int
    counts: Counts = field(default_factory=Counts)
    _owner: str = field(default_factory=new_owner)
    _under_way: list[_Coordinator] = field(default_factory=list)
    _looked: float = field(default_factory=time.monotonic)
    _patient_until: float = 0.0
    _idle_until: float = 0.0
    _away: bool = False

    @property
    def busy(self) -> bool:
        """Whether any coordinator started here is under way."""
        return bool(self._under_way)

    def look(self) -> bool:
        """See how the coordinators do, and start those there is room for; whether a job was taken."""
        self._notice_gaps()
        self.counts.looks += 1
        try:
            self.ray.ping()  # a job is not taken where nobody could carry it out
            for one in list(self._under_way):
                with _about(one.job):
                    self._follow(one)
            self._say_away(None)
            return self._take_next()
        except RayAway as error:
            self._say_away(error)
            self._keep_leases()
            return False
        finally:
            self.counts.coordinators = len(self._under_way)

    def stop(self) -> None:
        """Have the coordinators end, and put their jobs back in the queue."""
        for one in self._under_way:
            self.ray.stop(one.name)
        deadline = time.monotonic() + STOP_SECONDS
        while self._under_way and time.monotonic() < deadline:
            self._under_way = [one for one in self._under_way if self._holds(one)]
            time.sleep(0.2)
        for one in self._under_way:
            self._give_back(one)

    def _notice_gaps(self) -> None:
        """Where the last one is long ago, the database was away: then holders get time to renew their leases."""
        now = time.monotonic()
        if now - self._looked > LEASE_SECONDS / 2:
            self._patient_until = now + LEASE_SECONDS
        self._looked = now

    def _take_next(self) -> bool:
        if len(self._under_way) >= self.most or time.monotonic() < self._idle_until:
            return False
        self._notice_gaps()
        job = claim_next(self.database, self._owner, LEASE_SECONDS, abandoned=time.monotonic() >= self._patient_until)
        if job is not None:
            with _about(job):
                self._begin(job)
        return job is not None

    def _begin(self, job: Job) -> None:
        if job.deaths >= ATTEMPTS:
            error = f"given up after {ATTEMPTS} attempts in a row that recorded nothing and ended without a word"
            finish(self.database, job.id, job.attempt, "failed", error=error + self._last_words(job))
            self.progress.say(f"Job `{job.name}` {error}")
            return
        one = _Coordinator(job)
        self.progress.say(f"Job `{job.name}`, attempt {job.attempt}")
        self.ray.stop(_name(job, job.attempt - 1))  # it lost its lease, and may still compute
        command = [sys.executable, "-m", "optimizer.coordinate", str(job.id), str(job.attempt), str(self.url_file)]
        form = os.environ.get(logs.VARIABLE)  # for its lines; what Ray starts has Ray's own environment
        try:
            self.ray.start(one.name, shlex.join([*(["env", f"{logs.VARIABLE}={form}"] if form else []), *command]))
        except RayAway:  # though it had just answered: a cluster that is only half there
            self._give_back(one)
            self._idle_until = time.monotonic() + LEASE_SECONDS
            raise
        self._under_way.append(one)
        self.counts.started += 1

    def _last_words(self, job: Job) -> str:
        reasons = [deed.data["reason"] for deed in deeds(self.database, job.id) if deed.action == "died"]
        return f"; the last one: {reasons[-1]}" if reasons else f"; see: mergeopt logs {job.name}"

    def _follow(self, one: _Coordinator) -> None:
        if not self._holds(one):
            self._see_off(one)
            return
        if not one.adopted:
            self._keep_lease(one)
        told = self.ray.ask(one.name)
        if told.standing == "unknown" and not one.adopted and time.monotonic() - one.began < 10:
            return
        if told.standing != "under way":
            self._bury(one, told.message)
        elif not one.adopted and time.monotonic() - one.began > START_SECONDS:
            self.ray.stop(one.name)
            self._bury(one, f"its coordinator did not start within {START_SECONDS:.0f} s: {told.message}")

    def _holds(self, one: _Coordinator) -> bool:
        now = glance(self.database, one.job.id)
        return now.state == "running" and now.attempt == one.job.attempt

    def _see_off(self, one: _Coordinator) -> None:
        """Its job has ended or is another's: it may end by itself for a while, then it is ended."""
        one.over = one.over or time.monotonic()
        if self.ray.ask(one.name).standing != "under way":
            self._under_way.remove(one)
            self.progress.say(f"Job `{one.job.name}` is {glance(self.database, one.job.id).state}")
        elif time.monotonic() - one.over > END_SECONDS:
            self.ray.stop(one.name)

    def _bury(self, one: _Coordinator, reason: str) -> None:
        self._under_way.remove(one)
        last = [logs.text_of(line) for line in self.ray.log(one.name).splitlines() if line.strip()][-1:]
        try:
            died = record_death(
                self.database, one.job.id, one.job.attempt, " ".join([reason, *last]), pause_after(one.job.deaths + 1)
            )
        except LeaseLost:
            return  # it has ended in order, or is another's by now
        self.counts.died += 1
        self.progress.say(f"Job `{died.name}`: its coordinator died ({died.error}); it is {died.state}")

    def _keep_leases(self) -> None:
        for one in self._under_way:
            if not one.adopted:
                self._keep_lease(one)

    def _keep_lease(self, one: _Coordinator) -> None:
        """Until the coordinator has taken over. A lease that is not this process's any more is its."""
        one.adopted = renew(self.database, one.job.id, self._owner, one.job.attempt, LEASE_SECONDS) is None

    def _give_back(self, one: _Coordinator) -> None:
        try:
            release(self.database, one.job.id, one.job.attempt, state="queued")
        except LeaseLost:
            return

    def _say_away(self, error: RayAway | None) -> None:
        self.counts.cluster_up = error is None
        if (error is not None) != self._away:
            self._away = error is not None
            self.progress.say(f"The cluster does not answer: {error}" if error else "The cluster answers")


def serve(
    database: Engine,
    url: str,
    address: str | None,
    progress: Progress,
    once: bool = False,
    most: int | None = None,
    metrics: tuple[str, int] | None = None,
) -> None:
    """Have jobs carried out until SIGINT or SIGTERM, or with `once` until none is queued or under way.

    `most` jobs at a time, by default 4 on a cluster and one without. When the signal comes, coordinators are asked to
    end and their jobs go back in the queue. `metrics`: host and port where they are served. Raises `InputError` where
    the cluster cannot be reached, or that port not be used.
    """
    counts = Counts()
    page = _metrics(metrics, url, counts, progress) if metrics else nullcontext()
    # The handlers come last: Ray's start puts its own in their place.
    with page, url_file(url) as file, ray_jobs(address) as ray, stop_requested() as stop:
        logs.set_up(service=True)  # again: Ray has brought ways of its own
        progress.say("Waiting for jobs")
        lead(Controller(database, ray, file, progress, most or (1 if address is None else 4), counts), stop, once)


def lead(controller: Controller, stop: threading.Event, once: bool = False) -> None:
    """Look again and again until `stop` is set, or with `once` until there is nothing to do; then stop in order."""
    try:
        while not stop.is_set():
            try:
                taken = controller.look()
            except DatabaseAway as error:
                controller.progress.say(str(error))
                continue
            if once and not taken and not controller.busy:
                return
            if not taken:
                stop.wait(LOOK_SECONDS)
    finally:
        controller.stop()


def _about(job: Job) -> AbstractContextManager[None]:
    return logs.about(job=job.name, job_id=job.id, attempt=job.attempt)


@contextmanager
def _metrics(at: tuple[str, int], url: str, counts: Counts, progress: Progress) -> Iterator[None]:
    from optimizer.metrics import metrics_page

    with metrics_page(url, *at, counts) as port:
        progress.say(f"Metrics: http://{at[0]}:{port}/metrics")
        yield
