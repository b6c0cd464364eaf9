"""Take a job in: check everything, then write it to the database whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from optimizer.audit import user
from optimizer.errors import InputError
from optimizer.examples import LedgerEntry
from optimizer.jobs import Job, create_job, find_job, next_step
from optimizer.preflight import Say, gib, memory_of, preflight
from optimizer.spec import JobFile
from optimizer.warm_start import check_examples, earlier_job, warm_started


@dataclass(frozen=True)
class Submitted:
    """A job in the database; `fresh` is False where the very same job was there before."""

    job: Job
    fresh: bool


def submit(
    database: Engine, spec: JobFile, folder: Path, say: Say, local: bool, served: bool = False, priority: int = 0
) -> Submitted:
    """Put the job in the queue, or find it there.

    One that is not `served` is for this process to carry out. Submitting the same job file twice is the same job:
    nothing is written the second time. Raises `InputError` where a check fails, or where another job has the name.
    """
    content = spec.model_dump(mode="json")
    existing = find_job(database, spec.name)
    if existing is not None:
        _refuse_another(existing, content)
        return Submitted(existing, fresh=False)
    earlier = earlier_job(database, spec)
    checked = preflight(spec, folder, say, local)
    for note in checked.notes:
        say(f"Note: {note}")
    plan = checked.plan
    if earlier is not None:
        check_examples(database, earlier, checked.examples)
        plan = warm_started(plan, spec, earlier)
    counts = ", ".join(f"{count} {split}" for split, count in plan.examples.items())
    say(
        f"Plan: {plan.space(spec).distributions().count()} coefficients, {len(plan.baselines)} baselines; "
        f"examples: {counts}; {spec.workers.count} workers, about {memory_of(spec, plan.needs)}; "
        f"about {gib(plan.needs.disk_bytes)} of disk for an export"
    )
    try:
        job = create_job(
            database,
            spec.name,
            spec=content,
            plan=plan.model_dump(mode="json"),
            folder=str(folder),
            submitted_by=user(),
            priority=priority,
            served=served,
            examples=[LedgerEntry(example.id, example.task, example.split) for example in checked.examples],
        )
    except InputError:
        taken = find_job(database, spec.name)
        if taken is None or _as_written_now(taken) != content:
            raise
        return Submitted(taken, fresh=False)  # the same file, submitted elsewhere while this one was checked
    return Submitted(job, fresh=True)


def _refuse_another(existing: Job, content: dict[str, Any]) -> None:
    written = _as_written_now(existing)
    if written == content:
        return
    keys = [key for key in content if written.get(key) != content[key]]
    raise InputError(
        f"A job's name stands for one job file, but `{existing.name}` was submitted with another {', '.join(keys)}. "
        f"Give this one another name (--name), or keep to the old one, which is {existing.state}. "
        f"{next_step(existing.name, existing.state)}"
    )


def _as_written_now(job: Job) -> dict[str, Any]:
    """The job's file with every key of this version: one that came later has its default there."""
    return JobFile.model_validate(job.spec).model_dump(mode="json")
