"""Carry out queued jobs one after another."""

from sqlalchemy import Engine

from optimizer.jobs import claim_next, finish
from optimizer.owners import new_owner
from optimizer.progress import Progress
from optimizer.run import LEASE_SECONDS, run_claimed
from optimizer.scorer import Interrupted
from optimizer.signals import stop_requested

LOOK_SECONDS = 2.0
ATTEMPTS = 10  # a job that kills whoever carries it must not kill the service for ever


def serve(database: Engine, url: str, address: str | None, progress: Progress, once: bool = False) -> None:
    """Claim and run jobs until SIGINT or SIGTERM, or with `once` until none is queued.

    A job that fails is marked so with its reason, and the next one is taken. A job under way when the signal comes is
    released as interrupted.
    """
    with stop_requested() as stop:
        progress.say("Waiting for jobs")
        while not stop.is_set():
            owner = new_owner()
            job = claim_next(database, owner, LEASE_SECONDS)
            if job is None:
                if once:
                    return
                stop.wait(LOOK_SECONDS)
                continue
            if job.attempt > ATTEMPTS:
                error = f"given up after {ATTEMPTS} attempts: each one ended without a word; see the log of `serve`"
                finish(database, job.id, job.attempt, "failed", error=error)
                progress.say(f"Job `{job.name}` {error}")
                continue
            progress.say(f"Job `{job.name}`, attempt {job.attempt}")
            try:
                run_claimed(database, url, job, owner, address, progress, stop)
                progress.say(f"Job `{job.name}` is done")
            except Interrupted as stopped:
                progress.say(f"Job `{job.name}` stopped ({stopped.reason})")
            except Exception as error:  # whatever went wrong is on the job; the next one is not to blame
                progress.say(f"Job `{job.name}` did not end well: {error}")
