"""One worker as a Ray actor, from its place in the queue for a node to its end."""

import contextlib
import socket
import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from optimizer.cluster.room import Room
from optimizer.pool import Unit

Setup = tuple[dict[str, Any], dict[str, Any]]
"""A job file and its plan, as JSON."""


class WorkerClass(Protocol):
    """What an actor is made of: `optimizer.worker.Worker`, or another that is called as it is."""

    def __call__(self, job: dict[str, Any], plan: dict[str, Any], threads: int) -> Any:
        """A worker that has `prepare`, `score`, `gradient` and `statistics`, and is light until it is prepared."""


@dataclass(frozen=True)
class Place:
    """Where an actor runs: Ray's id of the node, and what people call the machine."""

    node: str
    host: str
    address: str

    def __str__(self) -> str:
        return f"{self.host} ({self.address}, Ray's node {self.node[:8]})"


@dataclass
class WorkerActor:
    """A worker process: `unplaced` until a node takes it, then `preparing`, then `ready` for one unit after another.

    `reference` is what it is to answer next, None where it has nothing to do. `since` is when that was asked. A worker
    that is `leaving` ends after its unit. It is not placed on the nodes it `avoids`.
    """

    name: str
    handle: Any
    reference: Any
    since: float
    stage: Literal["unplaced", "preparing", "ready"] = "unplaced"
    place: Place | None = None
    unit: Unit | None = None
    leaving: bool = False
    avoids: frozenset[str] = frozenset()

    @property
    def idle(self) -> bool:
        """Whether it could take a unit now."""
        return self.stage == "ready" and self.reference is None and not self.leaving

    def placed(self, where: tuple[str, str, str]) -> None:
        """A node has taken it: it opens models and tasks there."""
        self.place, self.stage = Place(*where), "preparing"
        self._ask(self.handle.prepare.remote())

    def take(self, unit: Unit) -> None:
        """Begin a unit."""
        self.unit = unit
        asked = unit.recipe, list(unit.ids)
        if unit.statistics is not None:
            self._ask(self.handle.statistics.remote(list(unit.ids), **unit.statistics))
        elif unit.scales is None:
            self._ask(self.handle.score.remote(*asked))
        else:
            self._ask(self.handle.gradient.remote(*asked, unit.scales))

    def show_life(self) -> None:
        """Answer something small before anything else: it is not idle until it has."""
        self._ask(self.handle.__ray_call__.remote(_whereabouts))

    def kill(self) -> None:
        """End the process, or its wait for a node. Ray cannot interrupt what it is doing in any other way."""
        import ray

        with contextlib.suppress(Exception):  # it may be dead already
            ray.kill(self.handle, no_restart=True)

    def _ask(self, reference: Any) -> None:
        self.reference, self.since = reference, time.monotonic()


def start_actor(name: str, worker: WorkerClass, setup: Setup, need: Room, avoids: frozenset[str]) -> WorkerActor:
    """Have Ray look for a node that holds the need and is not one of `avoids`, for as long as it takes.

    Actors are never restarted by Ray: a replacement is a new actor, so that "lost" and "ready again" cannot be
    confused, and a unit is re-issued by the coordinator alone.
    """
    import ray

    threads = max(1, int(need.cpus))
    # Nothing on models and caches is passed on: HF_HOME, HF_HUB_OFFLINE and the like are the node's own.
    environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    handle: Any = (
        ray.remote(worker)
        .options(
            num_cpus=need.cpus,
            num_gpus=need.gpus,
            **({"memory": need.memory} if need.memory else {}),
            **({"label_selector": {"ray.io/node-id": f"!in({','.join(sorted(avoids))})"}} if avoids else {}),
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": environment},
        )
        .remote(*setup, threads)
    )
    return WorkerActor(name, handle, handle.__ray_call__.remote(_whereabouts), time.monotonic(), avoids=avoids)


def _whereabouts(_worker: Any) -> tuple[str, str, str]:
    """The parts of a `Place`, from inside an actor."""
    import ray

    library: Any = ray  # these carry no types
    return library.get_runtime_context().get_node_id(), socket.gethostname(), library.util.get_node_ip_address()
