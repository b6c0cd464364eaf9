"""What commands have in common: the database opened for a while, results looked up, things printed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from optimizer.jobs import Job
    from optimizer.results import Results


@contextmanager
def database(storage: str) -> Iterator[tuple["Engine", str]]:
    """The job database, and its URL with everything in it, for Optuna."""
    from optimizer.database import open_database

    opened = open_database(storage)
    try:
        yield opened, opened.url.render_as_string(hide_password=False)
    finally:
        opened.dispose()


def job_and_results(opened: "Engine", url: str, name: str) -> tuple["Job", "Results"]:
    """A job, and what is known of it so far."""
    from optimizer.jobs import get_job
    from optimizer.run import results_so_far

    found = get_job(opened, name)
    return found, results_so_far(opened, url, found)


def print_report(storage: str, name: str) -> None:
    """The job's report, and what to do next."""
    with database(storage) as (opened, url):
        found, results = job_and_results(opened, url, name)
    print_results(results)
    print(f"\nHTML report: {Path(found.folder) / 'report.html'}")
    print(f"Export the winner: mergeopt export {found.name} DIR")


def print_results(results: "Results") -> None:
    """The report as text."""
    from optimizer.report_text import show as show_results

    show_results(results)


def refuse_existing(file: Path) -> None:
    """Raise `InputError` where the file is there, before anything is done for it."""
    if file.exists():
        raise InputError(f"{file}: must not exist, but does; choose another name or remove it.")


def write_new(file: Path, text: str) -> None:
    """A file that was not there before. Raises `InputError` where it was, or cannot be written."""
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        refuse_existing(file)
        raise
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error}).") from error


def print_rich(content: Any) -> None:
    """A table or the like, as wide as the terminal."""
    from rich.console import Console

    Console().print(content)


def print_json(data: Any, compact: bool = False) -> None:
    """JSON for people, or with `compact` one line of it for programs that read a stream."""
    print(json.dumps(data, indent=None if compact else 2, default=str), flush=compact)
