"""Carry a claimed job from its first trial to its report."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from merging.sources import Sources
from optimizer import report_html
from optimizer.auto.conductor import Conductor
from optimizer.auto.rule import AUTO
from optimizer.batches import Batches, batches_of
from optimizer.cluster import RayPool, cluster
from optimizer.coordinator import Coordinator, recipe_of
from optimizer.engines import ENGINES
from optimizer.errors import InputError
from optimizer.events import count_events, log_event
from optimizer.evidence import Evidence
from optimizer.examples import read_ledger
from optimizer.finish import FINALISTS, Ending, Finish
from optimizer.jobs import Job, LeaseLost, cancel_requested, claim, finish, release, renew
from optimizer.ledger import TEST_OPENED
from optimizer.owners import new_owner
from optimizer.plan import Plan
from optimizer.preflight import check_workers
from optimizer.progress import Progress
from optimizer.results import Results, to_json
from optimizer.scorer import Interrupted, Scorer
from optimizer.signals import interrupted_at_once, stop_requested
from optimizer.spec import JobFile
from optimizer.study import all_trials, open_storage, open_study
from optimizer.summary import Summary

LEASE_SECONDS = 120.0  # longer than the patience with a database that is away
RENEW_SECONDS = 15.0
CANCEL_SECONDS = 2.0


@dataclass
class Lease:
    """The right to work on a job, kept alive by being looked at."""

    database: Engine
    job: Job
    owner: str
    stop: threading.Event
    _renewed: float = 0.0
    _asked: float = 0.0

    def check(self) -> None:
        """Renew the lease when due. Raises `Interrupted` where the work should end here, `LeaseLost` where it must."""
        if self.stop.is_set():
            raise Interrupted("interrupt")
        now = time.monotonic()
        if now - self._asked >= CANCEL_SECONDS:
            self._asked = now
            if cancel_requested(self.database, self.job.id):
                raise Interrupted("cancel")
        if now - self._renewed >= RENEW_SECONDS:
            self._renewed = now
            if not renew(self.database, self.job.id, self.owner, self.job.attempt, LEASE_SECONDS):
                raise LeaseLost(f"job `{self.job.name}` was taken over by another process; this one stops")


def claim_and_run(database: Engine, url: str, name: str, address: str | None, progress: Progress) -> Results:
    """Claim the job by name and carry it out on the Ray cluster at `address`, or on a local one.

    Raises `InputError` where somebody else holds it, `JobFailed` where it fails, `Interrupted` where it is stopped.
    """
    owner = new_owner()
    return run_claimed(database, url, claim(database, name, owner, LEASE_SECONDS), owner, address, progress)


def run_claimed(
    database: Engine,
    url: str,
    job: Job,
    owner: str,
    address: str | None,
    progress: Progress,
    stop: threading.Event | None = None,
) -> Results:
    """Carry out a job this process holds, and give the job its end state whatever happens.

    `stop` is set by whoever wants it to end early; SIGINT and SIGTERM set it too.
    """
    stop = stop or threading.Event()
    try:
        with interrupted_at_once(stop):
            results = _carry(database, url, job, owner, address, progress, stop)
    except (Interrupted, KeyboardInterrupt, SystemExit) as stopped:
        # While Ray starts and stops, both signals raise KeyboardInterrupt.
        release(database, job.id, job.attempt)
        raise stopped if isinstance(stopped, Interrupted) else Interrupted("interrupt") from None
    except LeaseLost:
        raise
    except Exception as error:
        if stop.is_set():  # Ray's processes get the same signal, and what it then says of them is no failure of the job
            release(database, job.id, job.attempt)
            raise Interrupted("interrupt") from error
        if isinstance(error, InputError):  # the job goes on once this machine or its models are in order
            release(database, job.id, job.attempt, error=str(error))
            raise
        finish(database, job.id, job.attempt, "failed", error=str(error) or type(error).__name__)
        raise
    finish(database, job.id, job.attempt, "done", result=to_json(results))
    try:
        report_html.write(results, Path(job.folder) / "report.html")
    except OSError as error:
        progress.say(
            f"The report could not be written ({error}); write it with: mergeopt report {job.name} --html FILE"
        )
    return results


def _carry(
    database: Engine,
    url: str,
    job: Job,
    owner: str,
    address: str | None,
    progress: Progress,
    stop: threading.Event,
) -> Results:
    spec, plan = JobFile.model_validate(job.spec), Plan.model_validate(job.plan)
    if address is None:
        check_workers(spec, plan.needs)
        _check_sources(plan)
    study = open_study(open_storage(url), job.name, spec.objectives())
    evidence = Evidence(database, job.id, job.attempt, read_ledger(database, job.id))
    spent = evidence.seconds_so_far()
    began = time.monotonic()
    progress.say(f"Starting {spec.workers.count} workers")
    with cluster(address, spec.workers), stop_requested(stop):
        lease = Lease(database, job, owner, stop)
        pool = RayPool(job.spec, job.plan, spec.workers)
        scorer = Scorer(pool, evidence.ids, evidence.record, lease.check)
        searched: Ending | None = None
        if spec.engine() == AUTO:
            conductor = Conductor(
                job=spec,
                plan=plan,
                study=study,
                scorer=scorer,
                evidence=evidence,
                progress=progress,
                workers=spec.workers.count,
                seconds_before=spent,
                folder=Path(job.folder),
            )
            searched = conductor.search()
            plan = conductor.plan
        else:
            Coordinator(
                job=spec,
                plan=plan,
                study=study,
                engine=_engine(spec, plan, study),
                scorer=scorer,
                progress=progress,
                recorded=lambda trial: evidence.outcomes(trial, "search"),
                seconds_before=spent,
                batches=_batches(spec, evidence),
            ).search()
        space = plan.space(spec)
        ending = Finish(
            study=study,
            tasks=plan.tasks,
            scorer=scorer,
            recipe=lambda number: recipe_of(all_trials(study)[number], space),
            recorded=evidence.outcomes,
            open_test=lambda: log_event(database, job.id, TEST_OPENED, {"attempt": job.attempt}),
            progress=progress,
            count=spec.search.finalists or FINALISTS,
            whole=plan.examples["search"],
        ).run(searched)
    seconds = spent + time.monotonic() - began
    openings = count_events(database, job.id, TEST_OPENED)
    return Summary(job, spec, plan, study, evidence).results(ending, "done", seconds, openings)


def _check_sources(plan: Plan) -> None:
    """The models of a resumed job may have moved or changed since it was submitted."""
    try:
        Sources(plan.template).verify()
    except ValueError as error:
        raise InputError(f"{error} Put the model back as it was, or submit the job under another name.") from error


def _engine(spec: JobFile, plan: Plan, study: Any) -> Any:
    return ENGINES[spec.engine()](
        study,
        plan.space(spec).distributions(),
        seed=spec.search.seed,
        workers=spec.workers.count,
        start=plan.start,
    )


def _batches(spec: JobFile, evidence: Evidence) -> Batches | None:
    if spec.search.batch is None:
        return None
    searched = ((example.task, example.id) for example in evidence.examples if example.split == "search")
    return batches_of(searched, spec.search.batch, spec.search.seed)


def results_so_far(database: Engine, url: str, job: Job) -> Results:
    """What is known of a job: its final results where it is done, the search as it stands where it is not."""
    from optimizer.results import from_json

    if job.state == "done" and job.result is not None:
        return from_json(job.result)
    spec, plan = JobFile.model_validate(job.spec), Plan.model_validate(job.plan)
    study = open_study(open_storage(url), job.name, spec.objectives())
    evidence = Evidence(database, job.id, job.attempt, read_ledger(database, job.id))
    openings = count_events(database, job.id, TEST_OPENED)
    return Summary(job, spec, plan, study, evidence).results(None, job.state, evidence.seconds_so_far(), openings)
