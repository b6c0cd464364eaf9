"""Tell whether this machine can carry a job: versions, devices, database, Ray, memory, disk, the job file."""

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.table import Table
from rich.text import Text

from optimizer.errors import InputError, JobFailed

LIBRARIES = ("torch", "transformers", "lm_eval", "optuna", "ray", "sqlalchemy", "cmaes", "safetensors")


@dataclass(frozen=True)
class Check:
    """One thing looked at. `ok` is False where a job would fail on it."""

    name: str
    ok: bool
    found: str


def examine(storage: str, address: str | None, job_file: Path | None, folder: Path) -> list[Check]:
    """Every check, in the order a job meets them. A check that fails does not stop the others; none writes anything."""
    checks = [_python(), *_libraries(), _try("devices", _devices), _memory(), _disk(folder)]
    checks.append(_try("database", lambda: _database(storage)))
    checks.append(_try("ray", lambda: _ray(address)))
    if job_file is not None:
        checks.append(_try("job file", lambda: _job(job_file, folder, address)))
    return checks


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (InputError, JobFailed, ImportError, OSError) as error:
        return Check(name, False, str(error))


def _python() -> Check:
    return Check("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _libraries() -> list[Check]:
    checks = []
    for library in LIBRARIES:
        try:
            checks.append(Check(library, True, importlib.metadata.version(library)))
        except importlib.metadata.PackageNotFoundError:
            checks.append(Check(library, False, f"not installed: pip install {library}"))
    return checks


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {psutil.cpu_count()} cores; no CUDA device"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"cuda: {', '.join(names)}"


def _memory() -> Check:
    from optimizer.preflight import gib

    memory = psutil.virtual_memory()
    return Check("memory", True, f"{gib(memory.available)} available of {gib(memory.total)}")


def _disk(folder: Path) -> Check:
    from optimizer.preflight import gib, nearest_existing

    place = nearest_existing(folder)
    free = shutil.disk_usage(place).free
    return Check("disk", free > 2**30, f"{gib(free)} free in {place}")


def _database(storage: str) -> str:
    from optimizer.database import describe_database

    return describe_database(storage)


def _ray(address: str | None) -> str:
    from optimizer.cluster import describe_cluster

    return describe_cluster(address)


def _job(job_file: Path, folder: Path, address: str | None) -> str:
    from optimizer.preflight import gib, preflight
    from optimizer.spec import read_job_file

    job = read_job_file(job_file)
    checked = preflight(job, folder, local=address is None)
    counts = ", ".join(f"{count} {split}" for split, count in checked.plan.examples.items())
    return (
        f"`{job.name}` can run: {len(checked.plan.baselines)} baselines, examples: {counts}; "
        f"workers need about {gib(checked.plan.needs.total_memory_bytes)} of memory"
    )


def checks_table(checks: Sequence[Check]) -> Table:
    """The checks for a terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("no", style="bold red")
        table.add_row(mark, Text(check.name), Text(check.found))
    return table
