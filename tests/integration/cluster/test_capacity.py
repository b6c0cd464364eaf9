"""What the cluster holds, as those who divide it between jobs are told."""

import threading
import time

from optimizer.cluster import Capacity, Room, cluster_capacity
from optimizer.cluster.room import Lookout, Seen
from tests.integration.cluster.clerks import LIMIT, pool_of, still, unit, until
from tests.integration.cluster.conftest import Town

GIB = 2**30


def soon(cpus: float) -> Capacity:
    """What the cluster holds, once it has so many processors."""
    deadline = time.monotonic() + LIMIT
    while (found := cluster_capacity()).cpus != cpus:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_capacity_follows_nodes_that_join_and_leave(town: Town) -> None:
    soon(0)
    with town.node(num_cpus=3, num_gpus=2, memory=4 * GIB):
        found = soon(3)
        assert found.gpus == 2
        assert found.workers(Room(cpus=1, gpus=0.5, memory=GIB)) == 3
    soon(0)


def test_as_many_workers_share_a_gpu_as_their_fractions_allow(town: Town) -> None:
    with town.node(num_cpus=8, num_gpus=1) as shared:
        pool = pool_of(3, cpus=1, gpus=0.5)
        until(pool, lambda _: pool.idle() == 2)
        for key in ("one", "two"):
            pool.submit(unit(key))
        answers = until(pool, lambda answers: len(answers) == 2)
        assert [answer.scored and answer.scored["node"] for answer in answers] == [shared.node_id] * 2
        assert still(pool, 2) == []
        assert pool.idle() == 2  # the third has to wait for another GPU


def test_a_node_holds_as_many_workers_as_what_is_scarcest_allows() -> None:
    node = Room(cpus=8, gpus=2, memory=10 * GIB)
    assert node.times(Room(cpus=1)) == 8
    assert node.times(Room(cpus=1, memory=3 * GIB)) == 3
    assert node.times(Room(cpus=1, gpus=2)) == 1
    assert node.times(Room(cpus=0.1, gpus=0.1)) == 20
    assert node.times(Room(cpus=1, gpus=0.4)) == 4  # what is left of two GPUs makes no third share
    assert Room(cpus=1).times(Room(cpus=1, gpus=0.5)) == 0


def test_what_was_seen_last_stands_at_once_while_the_head_is_away() -> None:
    back, seen = threading.Event(), Seen({"one": Room(cpus=4)})
    looks = iter([lambda: seen, lambda: 1 / 0, lambda: back.wait(LIMIT) and seen])
    lookout = Lookout(lambda: next(looks)(), every=0.0, answers=0.1)  # type: ignore[arg-type, return-value]
    assert lookout.latest() == seen
    lookout.latest()  # begins a look that raises
    lookout.join(LIMIT)
    assert lookout.latest() == seen  # begins one that hangs
    time.sleep(0.2)
    begun = time.monotonic()
    assert lookout.latest() == seen
    assert not lookout.answered()
    assert time.monotonic() - begun < 1
    back.set()
    lookout.join(LIMIT)
    assert lookout.latest() == seen
