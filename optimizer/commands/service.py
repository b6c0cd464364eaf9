"""Commands that run a service: the controller, the database, the dashboard, limits, checks."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from optimizer.commands.options import (
    DEFAULT_STORAGE,
    WRONG_INPUT,
    Address,
    Folder,
    Json,
    Storage,
)
from optimizer.commands.shared import database, print_json, print_rich
from optimizer.errors import InputError

MOST = 1_000_000
db = typer.Typer(help="The job database.", no_args_is_help=True)


def serve(
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when the queue is empty.")] = False,
    at_a_time: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Jobs at a time. Default: 4 on a cluster, 1 without.", show_default=False),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            min=0,
            max=65535,
            help="Serve metrics for Prometheus at this port; 0 takes a free one.",
            show_default=False,
        ),
    ] = None,
    metrics_host: Annotated[str, typer.Option("--metrics-host", help="The address they are served at.")] = "127.0.0.1",
) -> None:
    """Have queued jobs carried out, each by a coordinator on the cluster, until stopped."""
    from optimizer import logs
    from optimizer.progress import PlainLines
    from optimizer.serve import serve as carry_on

    logs.set_up(service=True)
    with database(storage) as (opened, url):
        logs.hide_password(url)
        metrics = None if metrics_port is None else (metrics_host, metrics_port)
        carry_on(opened, url, address, PlainLines(), once, at_a_time, metrics)


def dashboard(
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    writable: Annotated[bool, typer.Option("--writable", help="Allow changes: notes, deletions.")] = False,
) -> None:
    """Open Optuna Dashboard on the job database, for this machine only (127.0.0.1)."""
    from optimizer.dashboard import HOST, make_dashboard

    with database(storage) as (_, url):
        server = make_dashboard(url, port, writable)
    print(f"Optuna Dashboard: http://{HOST}:{server.server_port}/  (Ctrl-C stops it)", flush=True)
    with server:
        server.serve_forever()


def doctor(
    job_file: Annotated[Path | None, typer.Argument(metavar="[JOB.yaml]", help="Check this job file too.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    address: Address = None,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Check versions, devices, database, Ray, memory and disk, and a job file against them."""
    from optimizer.doctor import checks_table, examine

    checks = examine(storage, address, job_file, folder or Path("mergeopt-jobs"))
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        print_rich(checks_table(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(WRONG_INPUT)


def limits(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="Whose limits; `*` is everybody else.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=MOST, help="Workers, all jobs together.")
    ] = None,
    running: Annotated[int | None, typer.Option("--jobs", min=0, max=MOST, help="Jobs that run at a time.")] = None,
    none: Annotated[bool, typer.Option("--none", help="Take away the limits that are not given.")] = False,
    as_json: Json = False,
) -> None:
    """Show what users may have at a time, or set it for one: what is not given stays as it was."""
    from optimizer.limits import all_limits, set_limit
    from optimizer.show import limits_table

    if user is None and (workers is not None or running is not None or none):
        raise InputError("`mergeopt limits` needs a user to set limits for; '*' is everybody without their own.")
    with database(storage) as (opened, _):
        if user is not None and (none or workers is not None or running is not None):
            set_limit(opened, user, workers, running, keep=not none)
        found = [limit for limit in all_limits(opened) if user in (None, limit.user)]
    if as_json:
        print_json([asdict(limit) for limit in found])
    else:
        print_rich(limits_table(found))


@db.command()
def upgrade(storage: Storage = DEFAULT_STORAGE) -> None:
    """Make the tables, or bring them up to date. Stop controllers and back up before."""
    from optimizer.database import describe_database, open_database
    from optimizer.study import open_storage

    before = describe_database(storage)
    opened = open_database(storage, patience=60.0, upgrade=True)
    open_storage(opened.url.render_as_string(hide_password=False)).engine.dispose()
    opened.dispose()
    print(f"before: {before}\nnow:    {describe_database(storage)}")


@db.command()
def current(storage: Storage = DEFAULT_STORAGE) -> None:
    """Say which revision the tables are at, and change nothing."""
    from optimizer.database import describe_database

    print(describe_database(storage))


COMMANDS = (serve, dashboard, doctor, limits)
