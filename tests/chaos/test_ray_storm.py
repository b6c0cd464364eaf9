"""A real service on Ray in a storm: every part of it is killed in turn. The long form, half an hour on two cores.

MERGEOPT_CHAOS=long python -m pytest tests/chaos/test_ray_storm.py -s
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from optimizer.database import open_database
from tests.chaos.checks import Witness, answer_of, check
from tests.chaos.ray_town import CONTROLLERS, PATIENCE, WORKERS, RayTown
from tests.conftest import Tiny
from tests.postgres import PostgresServer

pytestmark = [
    pytest.mark.skipif(os.environ.get("MERGEOPT_CHAOS") != "long", reason="half an hour; MERGEOPT_CHAOS=long runs it"),
    pytest.mark.timeout(7200),
]
ROUNDS = 2
TRIALS = 300
LEASE_SECONDS = 30.0
EXAMPLES = 100  # of each task: about a second for a trial, so that the search outlasts all kills
Kill = Callable[[RayTown, random.Random], str | None]


def _process(kind: str) -> Kill:
    def kill(town: RayTown, rng: random.Random) -> str | None:
        found = getattr(town, kind)()
        if not found:
            return None
        rng.choice(found).kill()
        return kind

    return kill


def _node(names: tuple[str, ...]) -> Kill:
    def kill(town: RayTown, rng: random.Random) -> str:
        name = rng.choice(names)
        return f"{name} with {town.kill(name)} processes"

    return kill


def _database(town: RayTown, rng: random.Random) -> str | None:
    town.keep_down("database", rng.uniform(0, 10))
    return "database" if town.server.kill() else None


KILLS: dict[str, Kill] = {
    "coordinator": _process("coordinators"),
    "worker": _process("workers"),
    "worker node": _node(WORKERS),
    "controller": _process("controllers"),
    "controller node": _node(CONTROLLERS),
    "database": _database,
    "head": _node(("head",)),
}


@pytest.fixture
def town(tmp_path: Path) -> Iterator[RayTown]:
    with closing(PostgresServer()) as server, closing(RayTown(tmp_path, server)) as here:
        yield here


def _submitted(town: RayTown, tiny: Tiny, name: str) -> None:
    search = {"engine": "cma-es", "budget": {"trials": TRIALS}, "seed": 1}
    town.submit(tiny, name, EXAMPLES, search=search, workers={"count": 2, "cpus": 1})


def test_a_service_comes_to_the_same_whatever_of_it_is_killed(town: RayTown, tiny: Tiny) -> None:
    rng, database = random.Random(1), open_database(town.url)
    _submitted(town, tiny, "undisturbed")
    town.wait_for(lambda: town.state("undisturbed") == "done", "the undisturbed job is done")
    undisturbed = answer_of(database, town.url, "undisturbed")
    _submitted(town, tiny, "disturbed")
    witness, killed, recoveries = Witness(town.eyes), Counter[str](), list[float]()
    for kind in [kind for _ in range(ROUNDS) for kind in rng.sample(list(KILLS), len(KILLS))]:
        seen = town.recorded("disturbed")
        town.wait_for(lambda seen=seen: town.recorded("disturbed") > seen, f"the search goes on, before {kind}")
        _wait(town, rng.uniform(0, 5))
        if town.state("disturbed") == "done":
            break
        attempt = town.attempt("disturbed")
        did = KILLS[kind](town, rng)
        killed[kind] += did is not None
        began = time.monotonic()
        _look(witness)
        if kind == "coordinator" and did is not None:
            town.wait_for(lambda last=attempt: town.spoke("disturbed", last), "another coordinator is at work")
            recoveries.append(time.monotonic() - began)
        print(f"{kind}: {did}; attempt {attempt}, {town.recorded('disturbed')} rounds", flush=True)
    town.wait_for(lambda: town.state("disturbed") == "done", "the disturbed job is done", 2 * PATIENCE)
    _look(witness)
    check(database, town.url, "disturbed", undisturbed)
    attempts = town.attempt("disturbed")
    print(json.dumps({"killed": killed, "attempts": attempts, "seconds to the next coordinator": recoveries}))
    assert all(killed[kind] for kind in KILLS), killed
    assert max(recoveries) < 2 * LEASE_SECONDS


def _wait(town: RayTown, seconds: float) -> None:
    until = time.monotonic() + seconds
    town.wait_for(lambda: time.monotonic() >= until, "a moment has passed")


def _look(witness: Witness) -> None:
    try:
        witness.look()
    except DBAPIError:
        return
