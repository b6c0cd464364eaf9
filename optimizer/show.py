"""What `jobs` and `show` print."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from optimizer.audit import Deed
from optimizer.joblog import Line
from optimizer.jobs import Job, State
from optimizer.limits import EVERYBODY, Limit
from optimizer.progress import clock
from optimizer.queue import Listed
from optimizer.results import Results, to_json

FAILURES_SHOWN = 5


def job_row(job: Job | Listed) -> dict[str, Any]:
    """A job in a listing, as plain data."""
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "asked_to": job.request,
        "served": job.served,
        "priority": job.priority,
        "most_workers": job.most_workers,
        "attempt": job.attempt,
        "owner": job.owner,
        "submitted_by": job.submitted_by,
        "created_at": _iso(job.created_at),
        "started_at": _iso(job.started_at),
        "finished_at": _iso(job.finished_at),
        "folder": job.folder,
        "error": job.error,
    }


def jobs_table(jobs: Sequence[Listed], counts: Mapping[State, int]) -> Table | Text | Group:
    """The listing for a terminal. `counts` is of all jobs by state, whatever part of them is listed."""
    if not jobs:
        if counts:
            return Text(f"No job is like that. There are: {_counted(counts)}")
        return Text("There are no jobs yet. Submit one: mergeopt run JOB.yaml")
    table = Table("job", "state", "priority", "attempt", "by", "submitted", "error", box=None, pad_edge=False)
    for job in jobs:
        table.add_row(
            Text(job.name),
            Text(f"{job.state}, asked to {job.request}" if job.request else job.state),
            str(job.priority),
            str(job.attempt),
            Text(job.submitted_by),
            f"{job.created_at.astimezone():%Y-%m-%d %H:%M}",
            Text((job.error or "").splitlines()[0][:60] if job.error else ""),
        )
    left_out = sum(counts.values()) - len(jobs)
    return Group(table, Text(f"and {left_out} more; all: {_counted(counts)}")) if left_out > 0 else table


def _counted(counts: Mapping[State, int]) -> str:
    return ", ".join(f"{many} {state}" for state, many in counts.items())


def log_row(line: Line) -> dict[str, Any]:
    """A line of a job's log, as plain data."""
    return {
        "at": line.at.isoformat(timespec="milliseconds"),
        "attempt": line.attempt,
        "level": line.level,
        "text": line.text,
    }


def log_line(line: Line) -> str:
    """A line of a job's log for a terminal."""
    level = "" if line.level == "info" else f"{line.level}: "
    return f"{line.at.astimezone():%m-%d %H:%M:%S} [{line.attempt}] {level}{line.text}"


def deeds_table(deeds: Sequence[Deed]) -> Table | Text:
    """The audit trail for a terminal."""
    if not deeds:
        return Text("Nothing was done yet.")
    table = Table("when", "who", "host", "did", "job", "with", box=None, pad_edge=False)
    for deed in deeds:
        data = ", ".join(f"{key} {value}" for key, value in deed.data.items() if value is not None)
        when = f"{deed.at.astimezone():%Y-%m-%d %H:%M:%S}"
        table.add_row(when, *map(Text, (deed.who, deed.host, deed.action, deed.job or "", data)))
    return table


def limits_table(limits: Sequence[Limit]) -> Table | Text:
    """What users may have at a time, for a terminal."""
    if not limits:
        return Text("No user has limits. Set some: mergeopt limits USER --workers 8 --jobs 2")
    table = Table("user", "workers", "jobs", box=None, pad_edge=False)
    for limit in limits:
        numbers = ("no limit" if number is None else str(number) for number in (limit.workers, limit.jobs))
        table.add_row(Text("everybody else" if limit.user == EVERYBODY else limit.user), *numbers)
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
            f"{job.state}, attempt {job.attempt}" + (f", asked to {job.request}" if job.request else ""),
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
        ("queue", f"{'for controllers' if job.served else 'carried out by hand'}, priority {job.priority}"),
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
