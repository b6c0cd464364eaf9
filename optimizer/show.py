"""What `jobs` and `show` print."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from optimizer.jobs import Job
from optimizer.progress import clock
from optimizer.results import Results, to_json

FAILURES_SHOWN = 5


def job_row(job: Job) -> dict[str, Any]:
    """A job in a listing, as plain data."""
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "attempt": job.attempt,
        "submitted_by": job.submitted_by,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "finished_at": _iso(job.finished_at),
        "folder": job.folder,
        "error": job.error,
    }


def jobs_table(jobs: Sequence[Job]) -> Table | Text:
    """The listing for a terminal."""
    if not jobs:
        return Text("There are no jobs yet. Submit one: mergeopt run JOB.yaml")
    table = Table("job", "state", "attempt", "by", "submitted", "error", box=None, pad_edge=False)
    for job in jobs:
        table.add_row(
            Text(job.name),
            Text(job.state),
            str(job.attempt),
            Text(job.submitted_by),
            f"{job.created_at.astimezone():%Y-%m-%d %H:%M}",
            Text((job.error or "").splitlines()[0][:60] if job.error else ""),
        )
    return table


def job_detail(job: Job, results: Results) -> dict[str, Any]:
    """Everything known of a job, as plain data."""
    return {**job_row(job), "spec": job.spec, "plan": job.plan, "results": to_json(results)}


def job_panel(job: Job, results: Results) -> Group:
    """Everything a person asks about a job first."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(job, results):
        table.add_row(Text(name, style="bold"), Text(value))
    failed = [trial for trial in results.trials if trial.state == "failed"]
    lines = [Text(f"trial {trial.number} failed: {trial.error}") for trial in failed[:FAILURES_SHOWN]]
    if len(failed) > FAILURES_SHOWN:
        lines.append(Text(f"and {len(failed) - FAILURES_SHOWN} more failed trials"))
    return Group(table, *lines)


def _facts(job: Job, results: Results) -> list[tuple[str, str]]:
    states = [trial.state for trial in results.trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none yet"
    experts = ", ".join(f"{name} ({model['path']})" for name, model in job.spec["models"]["experts"].items())
    base = job.spec["models"]["base"]
    facts = [
        ("job", f"{job.name} (id {job.id}), submitted by {job.submitted_by}"),
        (
            "state",
            f"{job.state}, attempt {job.attempt}" + (", asked to stop" if job.cancel_requested else ""),
        ),
        ("base", base["path"] if base else "none"),
        ("experts", experts),
        ("method", f"{results.method} {job.spec['method'].get('structure') or ''}".strip()),
        ("space", results.space),
        ("engine", f"{results.engine}, seed {results.seed}, budget {results.budget}"),
        (
            "tasks",
            ", ".join(f"{task.name} ({task.metric}, weight {task.weight:g})" for task in results.tasks),
        ),
        ("examples", ", ".join(f"{count} {split}" for split, count in results.splits.items())),
        ("trials", counted),
        ("time", _time(job, results)),
        ("remote code", "allowed for the models" if job.spec["trust_remote_code"] else "not allowed"),
        ("task code", "allowed" if job.spec["trust_task_code"] else "not allowed"),
        ("folder", job.folder),
    ]
    if results.efe:
        facts.append(("cost", ", ".join(f"{split} {spent:,} EFE" for split, spent in results.efe.items())))
    if job.owner:
        facts.append(("held by", job.owner))
    if job.error:
        facts.append(("error", job.error))
    return facts


def _time(job: Job, results: Results) -> str:
    """The time that rounds were scored in, all attempts together; that of a lone attempt which recorded none."""
    seconds = results.seconds
    if not seconds and job.attempt == 1 and job.started_at is not None and job.finished_at is not None:
        seconds = (job.finished_at - job.started_at).total_seconds()
    return clock(seconds) if seconds else "nothing was recorded yet"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
