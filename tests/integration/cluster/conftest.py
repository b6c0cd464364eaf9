"""A Ray cluster of several nodes on this machine: a head without processors, and nodes that tests add and take away."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from optimizer.cluster import cluster
from optimizer.spec import Workers

STORE = 80_000_000  # bytes of a node's object store, which nothing of ours uses
SOON_DEAD = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 3,
}


class Town:
    """The cluster, seen by whoever runs it."""

    def __init__(self) -> None:
        self._cluster = Cluster()
        self._cluster.add_node(
            num_cpus=0, object_store_memory=STORE, include_dashboard=False, _system_config=dict(SOON_DEAD)
        )
        self.address: str = self._cluster.address

    @contextlib.contextmanager
    def node(self, **settings: Any) -> Iterator[Any]:
        """A node that has joined; it leaves at the end, unless it has been killed before."""
        node = self._cluster.add_node(object_store_memory=STORE, **settings)
        try:
            yield node
        finally:
            self.kill(node)

    def kill(self, node: Any) -> None:
        """End a node's processes without a word."""
        if node in self._cluster.worker_nodes:
            self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """End all that is left."""
        self._cluster.shutdown()


@pytest.fixture(scope="session")
def whole_town() -> Iterator[Town]:
    town = Town()
    yield town
    town.close()


@pytest.fixture
def town(whole_town: Town) -> Iterator[Town]:
    """The cluster without a node that could work, this process connected to it."""
    with cluster(whole_town.address, Workers()):
        _wait_until_nobody_could_work()
        yield whole_town


def _wait_until_nobody_could_work() -> None:
    """The head takes a node that a test before has killed for alive until it has missed some health checks."""
    library: Any = ray
    deadline = time.monotonic() + 60
    while any(node["Alive"] and node["Resources"].get("CPU") for node in library.nodes()):
        assert time.monotonic() < deadline, library.nodes()
        time.sleep(0.2)
