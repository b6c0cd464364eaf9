"""Commands about the queue: jobs are put in, carried out, stopped, changed and watched."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from optimizer.commands.options import (
    CANCELLED,
    DEFAULT_STORAGE,
    INTERRUPTED,
    Address,
    Folder,
    JobName,
    JobPath,
    Json,
    Name,
    Storage,
)
from optimizer.commands.shared import database, print_json, print_report, print_rich
from optimizer.errors import InputError, JobFailed

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from optimizer.jobs import State
    from optimizer.spec import JobFile
    from optimizer.submit import Submitted

Priority = Annotated[int, typer.Option("--priority", min=-1000, max=1000, help="Higher ones are taken first.")]
SHOWN = 50


def run(
    job_file: JobPath,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    folder: Folder = None,
    name: Name = None,
) -> None:
    """Submit a job and carry it out here. Ctrl-C stops it so that it can be resumed; running it again goes on."""
    from optimizer.progress import progress

    spec = _read(job_file, name)
    with database(storage) as (opened, url), progress() as shown:
        job = _submit(opened, spec, folder, shown.say, local=address is None).job
        if job.state == "done":
            shown.say(f"Job `{job.name}` is done already.")
        else:
            _carry_out(opened, url, job.name, address, shown)
    print_report(storage, job.name)


def submit(
    job_file: JobPath,
    storage: Storage = DEFAULT_STORAGE,
    folder: Folder = None,
    name: Name = None,
    priority: Priority = 0,
) -> None:
    """Check a job and put it in the queue. `mergeopt serve` carries it out."""
    from optimizer.jobs import next_step
    from optimizer.progress import progress

    spec = _read(job_file, name)
    with database(storage) as (opened, _), progress() as shown:
        submitted = _submit(opened, spec, folder, shown.say, local=False, served=True, priority=priority)
        job = submitted.job
        if not submitted.fresh:
            shown.say(
                f"Nothing was submitted: job `{job.name}`, with the same job file, is there already and {job.state}. "
                f"{next_step(job.name, job.state)}"
            )
    print(job.name)


def resume(
    job: JobName,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    here: Annotated[
        bool | None,
        typer.Option(
            "--here/--queue",
            help="Carry it out in this process, or have a controller do it. Default: as it was begun.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Go on with a job that was paused, interrupted, killed, failed or cancelled. Everything told so far stands."""
    from optimizer.jobs import get_job
    from optimizer.progress import progress
    from optimizer.requests import requeue

    with database(storage) as (opened, url), progress() as shown:
        queued = get_job(opened, job).served if here is None and address is None else not here
        name = requeue(opened, job, served=queued).name
        if queued:
            print(f"{name}: queued for a controller (mergeopt serve); to go on here, resume it with --here")
            return
        _carry_out(opened, url, name, address, shown)
    print_report(storage, name)


def retry(job: JobName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Put a failed job back in the queue. Everything told so far stands."""
    from optimizer.requests import retry as put_back

    with database(storage) as (opened, _):
        found = put_back(opened, job)
    print(f"{found.name}: queued")


def pause(job: JobName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Stop a job for now, or take it from the queue. `mergeopt resume` goes on with it."""
    from optimizer.requests import request_pause

    with database(storage) as (opened, _):
        found = request_pause(opened, job)
    print(f"{found.name}: {'asked to stop' if found.state == 'running' else found.state}")


def cancel(job: JobName, storage: Storage = DEFAULT_STORAGE) -> None:
    """Cancel a job. One that is running stops within seconds; what it recorded stays."""
    from optimizer.requests import request_cancel

    with database(storage) as (opened, _):
        found = request_cancel(opened, job)
    print(f"{found.name}: {'asked to stop' if found.state == 'running' else found.state}")


def change(
    job: JobName,
    storage: Storage = DEFAULT_STORAGE,
    priority: Annotated[int | None, typer.Option("--priority", min=-1000, max=1000, help="Higher first.")] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=1024, help="Workers at most, in place of the file's number."),
    ] = None,
) -> None:
    """Give a job another priority or another number of workers, also while it runs."""
    from optimizer.requests import change as change_job

    if priority is None and workers is None:
        raise InputError("`mergeopt change` needs --priority or --workers.")
    with database(storage) as (opened, _):
        found = change_job(opened, job, priority, workers)
    print(f"{found.name}: priority {found.priority}, workers {found.most_workers or found.spec['workers']['count']}")


def wait(
    job: JobName,
    storage: Storage = DEFAULT_STORAGE,
    timeout: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = None,
) -> None:
    """Wait until a job has ended or stopped. Ends with 0 done, 3 failed, 4 cancelled, 130 paused or interrupted."""
    from optimizer.watch import wait_for_end

    with database(storage) as (opened, _):
        ended = wait_for_end(opened, job, timeout)
    if ended is None:
        raise JobFailed(f"job `{job}` has not ended within {timeout:g} s; it goes on")
    print(f"{ended.name}: {ended.state}")
    if ended.state == "failed":
        raise JobFailed(f"job `{ended.name}` failed: {ended.error}")
    if ended.state != "done":
        raise typer.Exit(CANCELLED if ended.state == "cancelled" else INTERRUPTED)


def jobs(
    storage: Storage = DEFAULT_STORAGE,
    state: Annotated[str | None, typer.Option("--state", help="Only queued ones, or running, failed, ...")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Only those that this user submitted.")] = None,
    last: Annotated[int, typer.Option("--last", min=1, max=1_000_000, help="As many at most, the newest.")] = SHOWN,
    everything: Annotated[bool, typer.Option("--all", help="All jobs there are.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds; Ctrl-C ends it.")] = False,
    as_json: Json = False,
) -> None:
    """List the jobs."""
    from optimizer.queue import Listed, count_jobs, list_jobs
    from optimizer.show import job_row, jobs_table
    from optimizer.tables import STATES
    from optimizer.watch import again_and_again

    if state is not None and state not in STATES:
        raise InputError(f"--state must be one of {', '.join(STATES)}, but is {state!r}.")
    with database(storage) as (opened, _):

        def look() -> tuple[list[Listed], dict["State", int]]:
            found = list_jobs(opened, cast("State | None", state), user, None if everything else last)
            return found, count_jobs(opened)

        if as_json:
            for found, _counts in again_and_again(look) if watch else [look()]:
                print_json([job_row(job) for job in found], compact=watch)
        elif watch:
            _watch(lambda: jobs_table(*look()))
        else:
            print_rich(jobs_table(*look()))


def logs(
    job: JobName,
    storage: Storage = DEFAULT_STORAGE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended or stopped.")] = False,
    last: Annotated[int, typer.Option("--last", min=1, max=1_000_000, help="As many lines at first.")] = 200,
    as_json: Json = False,
) -> None:
    """Show what a job's coordinators have said, wherever they ran."""
    from optimizer.show import log_line, log_row
    from optimizer.watch import lines_of

    with database(storage) as (opened, _):
        for line in lines_of(opened, job, last, follow):
            if as_json:
                print_json(log_row(line), compact=True)
            else:
                print(log_line(line), flush=True)


COMMANDS = (run, submit, resume, retry, pause, cancel, change, wait, jobs, logs)


def _watch(table: Callable[[], Any]) -> None:
    from rich.live import Live

    from optimizer.watch import again_and_again

    with Live(table(), auto_refresh=False) as live:
        for content in again_and_again(table):
            live.update(content, refresh=True)


def _read(job_file: Path, name: str | None) -> "JobFile":
    """Before the database is opened, which may make its file."""
    from optimizer.spec import read_job_file

    return read_job_file(job_file, name)


def _submit(
    opened: "Engine",
    spec: "JobFile",
    folder: Path | None,
    say: Any,
    *,
    local: bool,
    served: bool = False,
    priority: int = 0,
) -> "Submitted":
    from optimizer.submit import submit as take_in

    where = (folder or Path("mergeopt-jobs") / spec.name).resolve()
    return take_in(opened, spec, where, say, local, served, priority)


def _carry_out(opened: "Engine", url: str, name: str, address: str | None, shown: Any) -> None:
    from optimizer.run import claim_and_run
    from optimizer.scorer import Interrupted

    try:
        claim_and_run(opened, url, name, address, shown)
    except Interrupted as stopped:
        if stopped.reason == "cancel":
            raise JobFailed(f"job `{name}` was cancelled; go on with: mergeopt resume {name}") from None
        shown.say(f"Stopped. Go on with: mergeopt resume {name}")
        raise typer.Exit(INTERRUPTED) from None
