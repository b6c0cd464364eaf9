"""The memory that `mergeopt serve` takes when there is nothing to do: `python -m benchmarks.service.footprint`.

It is started as anybody would, on a local Ray cluster, with metrics that are read as often as Prometheus does, and left
alone for a while. Memory is what only the process has (USS), and that with its share of what it has in common with
others (PSS). Beside it stand Ray's own processes, and a bare Python process that is connected to Ray in the same way:
what our part of `serve` amounts to is the difference.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil
from rich.console import Console
from rich.table import Table

PATIENCE = 300.0  # seconds until Ray has started
WANTED = 300.0  # MB beyond Ray
BARE = """
import time
import ray
from ray.job_submission import JobSubmissionClient
context = ray.init(address="local", include_dashboard=True, log_to_driver=False, num_cpus=2)
JobSubmissionClient("http://" + context.address_info["webui_url"]).get_version()
print("ready", flush=True)
time.sleep(3600)
"""


@dataclass(frozen=True)
class Memory:
    """MB of one or several processes."""

    of: str
    processes: int
    uss: float
    pss: float


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        found = [*serving(Path(folder), options.seconds), *bare()]
    if options.json:
        print("\n".join(json.dumps(asdict(one)) for one in found))
    else:
        Console(width=100).print(table(found))


def serving(folder: Path, seconds: float) -> list[Memory]:
    """A controller that has been idle for so long, and the processes of Ray that it has started."""
    log = folder / "log"
    command = [sys.executable, "-m", "optimizer.cli", "serve", "--metrics-port", "0"]
    storage = f"sqlite:///{folder / 'mergeopt.db'}"
    with log.open("w") as out:
        process = _start([*command, "--storage", storage], out)
        try:
            _wait(process, lambda: "Waiting for jobs" in log.read_text(), log)
            page = re.search(r"http://\S+/metrics", log.read_text())
            assert page is not None
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                urllib.request.urlopen(page[0], timeout=10).read()
                time.sleep(min(15.0, seconds))
            return [_of("mergeopt serve", [process]), _of("Ray's processes", process.children(recursive=True))]
        finally:
            _end(process)


def bare() -> list[Memory]:
    """A process that has loaded and started Ray, and no line of ours."""
    with tempfile.NamedTemporaryFile("w") as out:
        process = _start([sys.executable, "-c", BARE], out)
        try:
            _wait(process, lambda: "ready" in Path(out.name).read_text(), Path(out.name))
            return [_of("Python with Ray alone", [process])]
        finally:
            _end(process)


def _start(command: list[str], out: IO[str]) -> psutil.Popen:
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    return psutil.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)


def _wait(process: psutil.Popen, reached: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"it has not started:\n{log.read_text()}")
        time.sleep(0.5)


def _of(what: str, processes: Iterable[psutil.Process]) -> Memory:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # Ray keeps starting helpers that end at once
            found.append(process.memory_full_info())
    uss, pss = (sum(getattr(one, kind) for one in found) / 1e6 for kind in ("uss", "pss"))
    return Memory(what, len(found), uss, pss)


def _end(process: psutil.Popen) -> None:
    if process.poll() is not None:
        return
    family = process.children(recursive=True)
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    for one in [process, *family]:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def table(found: list[Memory]) -> Table:
    """What was measured, and what is left of it for us."""
    by = {one.of: one for one in found}
    serve, ray = by["mergeopt serve"], by["Python with Ray alone"]
    ours = Memory("serve beyond Ray", 1, serve.uss - ray.uss, serve.pss - ray.pss)
    made = Table(title=f"MB when idle; at most {WANTED:.0f} beyond Ray are wanted")
    for name in ("", "processes", "USS", "PSS"):
        made.add_column(name, justify="right" if name else "left")
    for one in [*found, ours]:
        made.add_row(one.of, str(one.processes), f"{one.uss:,.0f}", f"{one.pss:,.0f}")
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is left alone")
    parser.add_argument("--json", action="store_true", help="one line for each row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
