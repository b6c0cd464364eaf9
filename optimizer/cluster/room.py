"""What the nodes of the cluster hold, and what of it a worker takes."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_FIRST_LOOK = 10.0  # seconds for which the first look is waited for


@dataclass(frozen=True)
class Room:
    """Processors, GPUs and bytes of memory: those of a node, or those a worker asks for."""

    cpus: float = 0
    gpus: float = 0
    memory: float = 0

    def times(self, need: "Room") -> int:
        """How often a need fits in here."""
        fits = []
        if need.cpus:
            fits.append(int(self.cpus / need.cpus + 1e-6))
        if need.memory:
            fits.append(int(self.memory / need.memory))
        if need.gpus >= 1:
            fits.append(int(self.gpus / need.gpus))
        elif need.gpus:  # parts of one GPU: what is left of several makes no further worker
            fits.append(int(self.gpus) * int(1 / need.gpus + 1e-6))
        return min(fits, default=0)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs, {self.memory / 2**30:.1f} GiB of memory"


@dataclass(frozen=True)
class Capacity:
    """The living nodes of the cluster and all they hold, in use or not."""

    nodes: tuple[Room, ...] = ()

    @property
    def cpus(self) -> float:
        """Processors of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def memory(self) -> float:
        """Bytes of all nodes' memory, as far as Ray hands it out."""
        return sum(node.memory for node in self.nodes)

    def workers(self, need: Room) -> int:
        """How many workers of this need the nodes could hold together if they held nothing else."""
        return sum(node.times(need) for node in self.nodes)

    def __str__(self) -> str:
        return f"{len(self.nodes)} nodes with {Room(self.cpus, self.gpus, self.memory)}"


@dataclass(frozen=True)
class Seen:
    """A look at the cluster: its living nodes by id, what of all is free, and the ids of nodes that have left."""

    nodes: Mapping[str, Room] = field(default_factory=dict)
    free: Room = Room()
    gone: frozenset[str] = frozenset()

    @property
    def capacity(self) -> Capacity:
        """The nodes without their ids."""
        return Capacity(tuple(self.nodes.values()))


class Lookout:
    """Looks at the cluster now and then, in a thread: Ray makes whoever asks wait while its head is away."""

    def __init__(self, look: Callable[[], Seen], every: float = 5.0, answers: float = 3.0) -> None:
        """`every`: seconds from look to look. `answers`: a head that takes longer is away, or nearly so."""
        self._look = look
        self._every, self._answers = every, answers
        self.forget()

    def forget(self) -> None:
        """What was seen counts no longer, and neither does a look that is under way."""
        self._seen: Seen | None = None
        self._begun = float("-inf")
        self._thread: threading.Thread | None = None

    def latest(self) -> Seen:
        """The last look that came to an end, which has another one begun when it is due. Waits for the first alone."""
        if time.monotonic() - self._begun >= self._every:
            self._begin()
        if self._seen is None:
            self.join(_FIRST_LOOK)
        return self._seen or Seen()

    def now(self, patience: float) -> Seen:
        """A look begun now; the last one where it does not come to an end in time."""
        self.join(patience)
        self._begin()
        self.join(patience)
        return self._seen or Seen()

    def answered(self) -> bool:
        """Whether the head has answered lately; begins a look where one is due."""
        self.latest()
        under_way = self._thread is not None and self._thread.is_alive()
        return not (under_way and time.monotonic() - self._begun > self._answers)

    def join(self, seconds: float) -> None:
        """Wait for a look under way."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _begin(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._begun = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="mergeopt-lookout", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            seen = self._look()
        except Exception:  # the head is away, in one of Ray's many ways: what was seen before still stands
            return
        if threading.current_thread() is self._thread:
            self._seen = seen


def look() -> Seen:
    """Ask Ray's head."""
    import ray

    library: Any = ray  # these two carry no types
    nodes = library.nodes()
    return Seen(
        {node["NodeID"]: _room(node["Resources"]) for node in nodes if node["Alive"]},
        _room(library.available_resources()),
        frozenset(node["NodeID"] for node in nodes if not node["Alive"]),
    )


def _room(resources: Mapping[str, float]) -> Room:
    return Room(*(resources.get(name, 0) for name in ("CPU", "GPU", "memory")))


LOOKOUT = Lookout(look)
"""That of this process, which is connected to one cluster at a time."""


def cluster_capacity() -> Capacity:
    """What the cluster's living nodes hold. Costs next to nothing; while the head is away, it is what was seen last."""
    return LOOKOUT.latest().capacity
