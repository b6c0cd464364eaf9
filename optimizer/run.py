"""Carry a claimed job from its first trial to its report."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine

from merging.sources import Sources
from optimizer import logs, report_html
from optimizer.auto.conductor import Conductor
from optimizer.auto.rule import AUTO
from optimizer.batches import Batches, batches_of
from optimizer.cluster import RayPool, cluster, cluster_capacity
from optimizer.coordinator import Coordinator, recipe_of
from optimizer.database import DatabaseAway
from optimizer.engines import ENGINES
from optimizer.errors import InputError, JobFailed
from optimizer.events import count_events, log_event
from optimizer.evidence import Evidence
from optimizer.examples import read_ledger
from optimizer.fence import fence
from optimizer.finish import FINALISTS, Ending, Finish
from optimizer.joblog import JobLog
from optimizer.jobs import Job, LeaseLost, claim, finish, release
from optimizer.lease import LEASE_SECONDS, Lease
from optimizer.ledger import TEST_OPENED
from optimizer.onlookers import Onlookers
from optimizer.owners import new_owner
from optimizer.plan import Plan
from optimizer.pool import Pool
from optimizer.preflight import check_workers
from optimizer.progress import Progress
from optimizer.results import Results, to_json
from optimizer.scorer import Interrupted, Scorer
from optimizer.signals import interrupted_at_once, stop_requested
from optimizer.spec import JobFile
from optimizer.study import all_trials, open_storage, open_study, reach_storage
from optimizer.summary import Summary


@contextmanager
def ray_workers(address: str | None, job: Job, spec: JobFile) -> Iterator[Pool]:
    """The job's workers on the Ray cluster at `address`, or on a local one, for as long as the block lasts."""
    with cluster(address, spec.workers):
        yield RayPool(job.spec, job.plan, spec.workers, local=address is None)


@dataclass(frozen=True)
class Place:
    """Where a job is carried out.

    `address` is that of a Ray cluster; without one, a local cluster is started. `given_back` is the state of a job that
    is stopped here: a controller's goes on elsewhere, one that somebody carries out themselves waits for them. `hire`
    gets the workers.
    """

    address: str | None
    given_back: Literal["interrupted", "queued"] = "interrupted"
    shared: bool = False
    hire: Callable[[str | None, Job, JobFile], AbstractContextManager[Pool]] = ray_workers


def claim_and_run(database: Engine, url: str, name: str, address: str | None, progress: Progress) -> Results:
    """Claim the job by name and carry it out on the Ray cluster at `address`, or on a local one.

    Raises `InputError` where somebody else holds it, `JobFailed` where it fails, `Interrupted` where it is stopped.
    """
    owner = new_owner()
    job = claim(database, name, owner, LEASE_SECONDS)
    logs.all_about(job=job.name, job_id=job.id, attempt=job.attempt)
    with JobLog(database, job.id, job.attempt, progress).open() as log:
        return run_claimed(database, url, job, owner, Place(address), log)


def run_claimed(
    database: Engine,
    url: str,
    job: Job,
    owner: str,
    place: Place,
    progress: Progress,
    stop: threading.Event | None = None,
) -> Results:
    """Carry out a job this process holds, and give the job its end state whatever happens.

    `stop` is set by whoever wants it to end early; SIGINT and SIGTERM set it too.
    """
    stop = stop or threading.Event()
    lease = Lease(database, job, owner, stop, cluster_capacity if place.shared else lambda: None)

    def give_back(error: str | None = None) -> None:
        release(database, job.id, job.attempt, error, "interrupted" if error else place.given_back)

    try:
        with interrupted_at_once(stop), lease.held():
            results = _carry(lease, url, place, progress)
            finish(database, job.id, job.attempt, "done", result=to_json(results))
    except (Interrupted, KeyboardInterrupt, SystemExit) as stopped:
        # While Ray starts and stops, both signals raise KeyboardInterrupt.
        give_back()
        raise stopped if isinstance(stopped, Interrupted) else Interrupted("interrupt") from None
    except (LeaseLost, DatabaseAway):  # what cannot be written down shows by the lease, which runs out
        raise
    except Exception as error:
        if stop.is_set():  # Ray's processes get the same signal, and what it then says of them is no failure of the job
            give_back()
            raise Interrupted("interrupt") from error
        for_somebody = place.given_back == "interrupted"
        if isinstance(error, InputError) and for_somebody:  # they go on once this machine or the models are in order
            give_back(str(error))
            raise
        if isinstance(error, JobFailed) or for_somebody:
            finish(database, job.id, job.attempt, "failed", error=str(error) or type(error).__name__)
        raise
    try:
        report_html.write(results, Path(job.folder) / "report.html")
    except OSError as error:
        progress.say(
            f"The report could not be written ({error}); write it with: mergeopt report {job.name} --html FILE"
        )
    return results


def _carry(lease: Lease, url: str, place: Place, progress: Progress) -> Results:
    database, job, stop = lease.database, lease.job, lease.stop
    spec, plan = JobFile.model_validate(job.spec), Plan.model_validate(job.plan)
    if place.address is None:
        check_workers(spec, plan.needs)
        _check_sources(plan)
    storage = reach_storage(database, url)
    fence(storage.engine, job.id, job.attempt)
    study = open_study(storage, job.name, spec.objectives())
    evidence = Evidence(database, job.id, job.attempt, read_ledger(database, job.id))
    spent = evidence.seconds_so_far()
    began = time.monotonic()
    progress.say(f"Starting {spec.workers.count} workers")
    conductor: Conductor | None = None

    def plan_now() -> Plan:
        return conductor.plan if conductor is not None else plan

    def so_far(state: str) -> Results:
        elapsed, openings = spent + time.monotonic() - began, count_events(database, job.id, TEST_OPENED)
        return Summary(job, spec, plan_now(), study, evidence).results(None, state, elapsed, openings)

    onlookers = Onlookers(database, job, spec, study, so_far, lambda: plan_now().space(spec))
    with onlookers, place.hire(place.address, job, spec) as pool, stop_requested(stop):

        def check() -> None:
            lease.check()
            if lease.workers is not None:
                pool.resize(lease.workers)

        scorer = Scorer(pool, evidence.ids, evidence.record, check)
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
                told=onlookers.told,
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
                told=onlookers.told,
            ).search()
        space = plan.space(spec)
        ending = Finish(
            study=study,
            tasks=plan.tasks,
            scorer=scorer,
            recipe=lambda number: recipe_of(all_trials(study)[number], space),
            recorded=evidence.outcomes,
            open_test=lambda: log_event(database, job.id, TEST_OPENED, {"attempt": job.attempt}, job.attempt),
            progress=progress,
            count=spec.search.finalists or FINALISTS,
            whole=plan.examples["search"],
        ).run(searched)
        seconds = spent + time.monotonic() - began
        openings = count_events(database, job.id, TEST_OPENED)
        results = Summary(job, spec, plan, study, evidence).results(ending, "done", seconds, openings)
        onlookers.done(results)
    return results


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
