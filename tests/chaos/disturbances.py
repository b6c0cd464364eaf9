"""What may befall a town. Each says what it did, or None where there was nothing to do it to."""

import random
import signal
from collections.abc import Callable
from functools import partial

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.chaos.haste import LEASE
from tests.chaos.town import Town, fill

Disturbance = Callable[[Town, random.Random], str | None]
HOUR = 3600.0


def kill_coordinator(town: Town, rng: random.Random) -> str | None:
    return _kill_one(town, rng, town.coordinators(), "coordinator")


def kill_worker(town: Town, rng: random.Random) -> str | None:
    return _kill_one(town, rng, town.workers(), "worker")


def kill_node(town: Town, rng: random.Random) -> str | None:
    """Coordinators and workers of one node at once; they are all on one where there is no other."""
    struck = town.coordinators(rng.randrange(town.nodes))
    killed = [pid for pid in struck if town.end(pid)]
    return f"node with {len(killed)} coordinators" if killed else None


def kill_controller(town: Town, rng: random.Random) -> str | None:
    return _kill_one(town, rng, town.controllers(), "controller")


def stop_controller(town: Town, rng: random.Random) -> str | None:
    """In order, as for an upgrade: its jobs go back in the queue."""
    return _kill_one(town, rng, town.controllers(), "controller", signal.SIGTERM)


def stop_coordinator(town: Town, rng: random.Random) -> str | None:
    return _kill_one(town, rng, town.coordinators(), "coordinator", signal.SIGTERM)


def kill_head(town: Town, rng: random.Random) -> str | None:
    """Coordinators may end with it, as Ray's nodes do in time, or live on unknown to the next."""
    head, along = town.head(), town.coordinators() if rng.random() < 0.5 else []
    town.keep_down("head", rng.uniform(0, 1.5))
    if head is None or not town.end(head):
        return None
    killed = [pid for pid in along if town.end(pid)]
    return f"head and {len(killed)} coordinators"


def kill_database(town: Town, rng: random.Random) -> str | None:
    town.keep_down("database", rng.uniform(0, 1.5))
    return "database" if town.kill_database() else None


def kill_everything(town: Town, _rng: random.Random) -> str | None:
    """The machine loses its power, as far as processes can tell."""
    head = town.head()
    pids = [*town.coordinators(), *town.workers(), *town.controllers(), *([] if head is None else [head])]
    town.kill_database()
    return f"all {sum(town.end(pid) for pid in pids)} processes"


def sleep_through_the_lease(town: Town, rng: random.Random) -> str | None:
    """A coordinator stands still until its lease is over, and goes on as if nothing had been."""
    pids = town.coordinators()
    if not pids:
        return None
    pid, seconds = rng.choice(pids), LEASE * rng.uniform(0.5, 2)
    if not town.end(pid, signal.SIGSTOP):
        return None
    town.later(seconds, partial(town.end, pid, signal.SIGCONT))
    return f"coordinator slept {seconds:.1f} s"


def cut_network(town: Town, rng: random.Random) -> str | None:
    """Between one node and the database: what was sent arrives late, or breaks off with its answer lost."""
    if not town.proxies:
        return None
    proxy, seconds, late = rng.choice(town.proxies), LEASE * rng.uniform(0.1, 2), rng.random() < 0.5
    if late:
        proxy.hold()
    else:
        proxy.cut()
    town.later(seconds, proxy.mend)
    return f"network {'held' if late else 'cut'} {seconds:.1f} s"


def step_clock(town: Town, rng: random.Random) -> str | None:
    """The database's clock jumps; to whoever compares with it, that is all its times moving the other way."""
    step = rng.choice((-HOUR, HOUR))
    moved = text(
        "UPDATE mergeopt_jobs SET lease_until = lease_until - :step, not_before = not_before - :step "
        "WHERE state IN ('running', 'queued')"
    )
    try:
        with town.database.begin() as connection:
            connection.execute(moved, {"step": step})
    except DBAPIError:  # it is down just now
        return None
    return f"clock {step:+.0f} s"


def fill_disk(town: Town, rng: random.Random) -> str | None:
    """To the last byte, for a while."""
    ballast, seconds = fill(town.folder.parent), rng.uniform(0.3, 3)
    town.later(seconds, partial(ballast.unlink, missing_ok=True))
    return f"disk full {seconds:.1f} s"


def _kill_one(
    town: Town, rng: random.Random, pids: list[int], part: str, number: signal.Signals = signal.SIGKILL
) -> str | None:
    return part if pids and town.end(rng.choice(sorted(pids)), number) else None


# How often each comes, and whether it is a kill: kill -9 of whatever it names.
TABLE: dict[str, tuple[Disturbance, int, bool]] = {
    "kill coordinator": (kill_coordinator, 6, True),
    "kill worker": (kill_worker, 4, True),
    "kill node": (kill_node, 2, True),
    "kill controller": (kill_controller, 4, True),
    "kill head": (kill_head, 3, True),
    "kill database": (kill_database, 3, True),
    "kill everything": (kill_everything, 1, True),
    "stop controller": (stop_controller, 1, False),
    "stop coordinator": (stop_coordinator, 1, False),
    "sleep": (sleep_through_the_lease, 2, False),
    "cut network": (cut_network, 3, False),
    "step clock": (step_clock, 1, False),
    "fill disk": (fill_disk, 1, False),
}
