"""Commands that tell of a job: what it is, what came out, what it looked at, what happened."""

from pathlib import Path
from typing import Annotated

import typer

from optimizer.commands.options import DEFAULT_STORAGE, JobName, Json, Storage
from optimizer.commands.shared import database, job_and_results, print_json, print_results, print_rich


def show(job: JobName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show a job: its state, settings, trials and whatever went wrong."""
    from optimizer.show import job_detail, job_panel

    with database(storage) as (opened, url):
        found, results = job_and_results(opened, url, job)
    if as_json:
        print_json(job_detail(found, results))
    else:
        print_rich(job_panel(found, results))


def report(
    job: JobName,
    storage: Storage = DEFAULT_STORAGE,
    html: Annotated[Path | None, typer.Option("--html", help="Where to write the HTML report.")] = None,
    as_json: Json = False,
) -> None:
    """Report on a job: a table here, and a self-contained HTML file."""
    from optimizer import report_html
    from optimizer.results import to_json

    with database(storage) as (opened, url):
        found, results = job_and_results(opened, url, job)
    path = html or Path(found.folder) / "report.html"
    report_html.write(results, path)
    if as_json:
        print_json({**to_json(results), "html": str(path)})
    else:
        print_results(results)
        print(f"\nHTML report: {path}")


def ledger(job: JobName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show a job's examples by split and task, and how often, by what and when each split was looked at."""
    from optimizer.jobs import get_job
    from optimizer.ledger import job_ledger, ledger_json, ledger_tables

    with database(storage) as (opened, _):
        found = job_ledger(opened, get_job(opened, job))
    if as_json:
        print_json(ledger_json(found))
    else:
        print_rich(ledger_tables(found))


def audit(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Only what was done to this job.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    last: Annotated[int, typer.Option("--last", min=1, max=1_000_000, help="As many at most, the newest.")] = 100,
    as_json: Json = False,
) -> None:
    """Show who did what: jobs submitted, taken, stopped, changed, exported; limits set."""
    from dataclasses import asdict

    from optimizer.audit import deeds
    from optimizer.jobs import get_job
    from optimizer.show import deeds_table

    with database(storage) as (opened, _):
        found = deeds(opened, None if job is None else get_job(opened, job).id, last)
    if as_json:
        print_json([asdict(deed) for deed in found])
    else:
        print_rich(deeds_table(found))


COMMANDS = (show, report, ledger, audit)
