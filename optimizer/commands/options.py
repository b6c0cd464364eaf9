"""Arguments and options that several commands share, and the codes they end with."""

import os
from pathlib import Path
from typing import Annotated

import typer

from optimizer.errors import InputError

DONE, WRONG_INPUT, FAILED, CANCELLED, INTERRUPTED = 0, 2, 3, 4, 130
DEFAULT_STORAGE = "sqlite:///mergeopt.db"
STORAGE_FILE = "MERGEOPT_STORAGE_FILE"

JobPath = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file; docs/job-file.md explains every key.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job's name.")]


def _storage(context: typer.Context, value: str) -> str:
    """The database that was given, else the one in the file that `MERGEOPT_STORAGE_FILE` names."""
    source = getattr(context.get_parameter_source("storage"), "name", "DEFAULT")
    file = os.environ.get(STORAGE_FILE)
    if not file or source == "COMMANDLINE":
        return value
    if source == "ENVIRONMENT":
        raise InputError(f"Only one of MERGEOPT_STORAGE and {STORAGE_FILE} may be set; take one of them away.")
    try:
        url = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise InputError(f"{STORAGE_FILE} must name a file with the database's URL, but: {error}.") from None
    if not url:
        raise InputError(f"{STORAGE_FILE} must name a file with the database's URL, but {file} is empty.")
    return url


Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="MERGEOPT_STORAGE",
        help=f"The job database: a SQLite file or a PostgreSQL URL. {STORAGE_FILE} may name a file with it.",
        callback=_storage,
        show_envvar=True,
        show_default=DEFAULT_STORAGE,
    ),
]


def _address(value: str | None) -> str | None:
    """An address that is empty comes from a variable that is not set."""
    if value is not None and not value.strip():
        raise InputError(
            "--address must name a Ray cluster, such as HEAD:6379, but is empty; leave it out for a local one."
        )
    return value


Address = Annotated[
    str | None,
    typer.Option("--address", help="A running Ray cluster. Without it a local one is started.", callback=_address),
]
Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where the job's files go. Default: mergeopt-jobs/<name>.")
]
Name = Annotated[str | None, typer.Option("--name", help="Submit under this name instead of the file's own.")]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="Load what was written by transformers, and have it write a few words.")
]
PushToHub = Annotated[
    str | None,
    typer.Option("--push-to-hub", metavar="OWNER/MODEL", help="Upload it to the Hub; a new repository is private."),
]
Public = Annotated[bool, typer.Option("--public", help="With --push-to-hub: let everybody see it.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Tensors under way at a time. Default: one for each processor.")
]
Device = Annotated[str, typer.Option("--device", help="Where merges are computed: cpu, cuda, or auto.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
