"""Storms on demand: `python -m tests.chaos --kills 200` kills what a service consists of, and looks what is left.

Each storm is a town with a job for each engine, once on SQLite, once on PostgreSQL, in turn. Where the kernel lets us,
the town's disk is a small one of its own, which is filled now and then. What went wrong ends the command with 1 and
what every part has said. `--seed` repeats a storm's plan, though not the moments at which processes are struck.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.chaos.checks import Answer
from tests.chaos.disturbances import TABLE
from tests.chaos.storm import Tally, Weather, storm
from tests.postgres import PostgresServer

DISK = "300M"
TRIALS = 100
IN_A_STORM = 40  # kills at most
SEEDS = 4  # of searches: each has to be run undisturbed once
_OWN_DISK = "MERGEOPT_CHAOS_OWN_DISK"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many kill -9 there must be in all")
    parser.add_argument("--in-a-storm", type=int, default=IN_A_STORM, help="kills in a storm, at most")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of each job")
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--kinds", nargs="+", choices=list(TABLE), default=None, help="only these disturbances")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    if _OWN_DISK not in os.environ and _may_mount():
        mounted = f"mount -t tmpfs -o size={DISK} tmpfs /tmp && mkdir /tmp/said && mount -t tmpfs tmpfs /tmp/said"
        inside = [sys.executable, "-m", "tests.chaos", *sys.argv[1:]]
        os.environ[_OWN_DISK] = "1"
        os.execvp("unshare", ["unshare", "-Urm", "sh", "-c", f'{mounted} && exec "$@"', "sh", *inside])
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    kinds = options.kinds or [kind for kind in TABLE if kind != "fill disk" or _OWN_DISK in os.environ]
    print(f"seed {seed}; {'a disk of its own' if _OWN_DISK in os.environ else 'no disk of its own'}", file=sys.stderr)
    began, total, by_database = time.monotonic(), Tally(), dict[str, Tally]()
    with _places() as (place, said):
        for number, (database, tally) in enumerate(_storms(options, seed, kinds, place, said)):
            total.add(tally)
            by_database.setdefault(database, Tally()).add(tally)
            _say(began, f"== storm {number + 1} on {database}: {tally.kills} kills, in all {total.kills}")
    shown = {name: dict(sorted(one.befell.items())) | {"kills": one.kills} for name, one in by_database.items()}
    counts = {"seed": seed, "kills": total.kills, "jobs": total.jobs, "attempts": total.attempts}
    print(json.dumps(counts | {"seconds": round(time.monotonic() - began), "befell": shown}, indent=2))


def _storms(
    options: argparse.Namespace, seed: int, kinds: list[str], place: Path, said: Path
) -> Iterator[tuple[str, Tally]]:
    began, undisturbed = time.monotonic(), dict[int, dict[str, Answer]]()
    kills = number = 0
    while kills < options.kills or number < len(options.databases):
        database = options.databases[number % len(options.databases)]
        search = (seed + number // len(options.databases)) % SEEDS
        if search not in undisturbed:
            there, calm = (place / f"calm-{search}", said / f"calm-{search}"), Weather(search, options.trials)
            undisturbed[search] = storm(*there, None, calm, say=lambda _: None, undisturbed=None)[1]
            _say(began, f"search {search} undisturbed")
        own = f"{seed}-{number}"
        with contextlib.ExitStack() as stack:
            server = None
            if database == "postgresql":
                server = stack.enter_context(contextlib.closing(PostgresServer()))
            weather = Weather(search, options.trials, options.in_a_storm, tuple(kinds))
            tell = partial(_say, began)
            tally, _ = storm(place / own, said / own, server, weather, tell, undisturbed[search])
        for folder in (place / own, said / own):
            shutil.rmtree(folder)
        kills, number = kills + tally.kills, number + 1
        yield database, tally


def _say(began: float, what: str) -> None:
    print(f"{time.monotonic() - began:7.1f} s  {what}", file=sys.stderr, flush=True)


def _may_mount() -> bool:
    """Whether we may have a file system of our own over /tmp, and nothing that we run from lies there."""
    if any(Path(path).is_relative_to("/tmp") for path in (__file__, sys.prefix, sys.base_prefix)):
        return False
    tried = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/tmp"]
    try:
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def _places() -> Iterator[tuple[Path, Path]]:
    """Where jobs and databases are, and where parts talk and log; the paths of sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="mo-", dir="/tmp") as place:
        if _OWN_DISK in os.environ:
            yield Path(place), Path("/tmp/said")
        else:
            with tempfile.TemporaryDirectory(prefix="mo-", dir="/tmp") as said:
                yield Path(place), Path(said)


if __name__ == "__main__":
    main()
