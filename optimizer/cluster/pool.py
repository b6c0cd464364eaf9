"""As many workers as wanted on whatever nodes there are, replaced when they are lost."""

import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from optimizer.cluster.actor import WorkerActor, WorkerClass, start_actor
from optimizer.cluster.room import LOOKOUT, Room
from optimizer.errors import JobFailed
from optimizer.plan import Plan
from optimizer.pool import Answer, Unit
from optimizer.spec import Workers
from optimizer.worker import Worker

_log = logging.getLogger(__name__)

_BYTES_PER_SECOND = 20_000_000  # a slow disk or network, over which models come before they are hashed
_LOOK_SECONDS = 2.0  # how long is waited for the head where what it knows by now matters


@dataclass(frozen=True)
class Patience:
    """How long things may take, in seconds, and how many starts in a row may fail.

    `prepare` is for imports, tasks and filling a model; time to download and hash the job's models comes on top.
    `pause` is the time before another start after those, and on a node where one has failed; it doubles from failure
    to failure, up to `longest_pause`.
    """

    prepare: float = 600
    starts: int = 3
    pause: float = 30
    longest_pause: float = 600
    between_words: float = 60

    def after(self, failures: int) -> float:
        """The pause after so many failures in a row."""
        return float(min(self.pause * 2 ** min(failures - 1, 20), self.longest_pause))


class RayPool:
    """Worker actors; a lost one is replaced by a fresh one, which waits for a node as long as it takes."""

    def __init__(
        self,
        job: dict[str, Any],
        plan: dict[str, Any],
        workers: Workers,
        *,
        local: bool = True,
        worker: WorkerClass = Worker,
        patience: Patience | None = None,
    ) -> None:
        """`local`: the cluster is this machine alone, whose memory was compared with the job's need beforehand.

        Elsewhere Ray is asked for the memory of a worker's own (`Needs.worker_memory_bytes`), so that it puts no more
        workers on a node than fit. What workers map from files is not in it: it is shared, and given up under pressure.
        """
        read = Plan.model_validate(plan)
        self._setup = (job, plan)
        self._worker = worker
        self._patience = patience or Patience()
        self._need = Room(workers.cpus, workers.gpus, 0 if local else read.needs.worker_memory_bytes)
        self._unit_seconds = workers.minutes_per_trial * 60
        self._preparing_seconds = self._patience.prepare + _bytes_to_read(read) / _BYTES_PER_SECOND
        self._wanted = workers.count
        self._actors: list[WorkerActor] = []
        self._started = self._failed_starts = self._pauses = 0
        self._resume_at = 0.0
        self._failures: Counter[str] = Counter()  # of starts, by node
        self._shunned: dict[str, float] = {}  # nodes where a start has failed, and until when no other is tried there
        self._heard = time.monotonic()  # of a placed worker, or from us that there is none
        self._warn_of_no_room()
        self._fill()

    def resize(self, count: int) -> None:
        """Have so many workers from now on, at least one: those too many end after what they are doing."""
        if max(1, count) == self._wanted:
            return
        self._wanted = max(1, count)
        staying = sorted(self._actors, key=_worth, reverse=True)[: self._wanted]
        for actor in list(self._actors):
            actor.leaving = not any(actor is one for one in staying)
            if actor.leaving and actor.unit is None:
                self._end(actor)
        self._fill()

    def idle(self) -> int:
        """How many workers are ready and have nothing to do."""
        return sum(actor.idle for actor in self._actors)

    def submit(self, unit: Unit) -> None:
        """Hand a unit to an idle worker. Raises `RuntimeError` where none is idle."""
        actor = next((actor for actor in self._actors if actor.idle), None)
        if actor is None:
            raise RuntimeError("no worker is idle; ask idle() first")
        actor.take(unit)

    def wait(self, seconds: float) -> list[Answer]:
        """The units that ended within `seconds`. Workers that died are replaced on the way.

        Raises `JobFailed` where workers cannot be started at all.
        """
        import ray

        self._part_from_nodes_that_left()
        self._fill()
        pending = [actor.reference for actor in self._actors if actor.reference is not None]
        if not pending:
            time.sleep(seconds)
            return []
        done, _ = ray.wait(pending, num_returns=1, timeout=seconds)
        if done:  # one has ended: take with it whatever else has ended by now
            done, _ = ray.wait(pending, num_returns=len(pending), timeout=0)
        ended = [actor for actor in self._actors if actor.reference in done]
        answers = [answer for actor in ended if (answer := self._settle(actor)) is not None]
        answers += self._cut_off_overdue()
        self._fill()
        self._say_what_is_waited_for()
        return answers

    def _settle(self, actor: WorkerActor) -> Answer | None:
        """Take what a worker has answered, and send it on its way."""
        import ray

        reference, actor.reference = actor.reference, None
        try:
            value = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            # The worker's own code raised: it may be in any state, so it is not trusted with another unit.
            imported = "" if actor.place is not None else f" (as it was imported on {error.ip})"
            return self._lost(actor, _last_line(error) + imported, own=True)
        except ray.exceptions.RayError as error:
            return self._lost(actor, _last_line(error))
        if actor.stage == "unplaced":
            actor.placed(value)
        elif actor.stage == "preparing":
            self._ready(actor)
        elif actor.unit is not None:
            unit, actor.unit = actor.unit, None
            if actor.leaving:
                self._end(actor)
            return Answer(unit, value, actor.name)
        return None

    def _ready(self, actor: WorkerActor) -> None:
        assert actor.place is not None
        actor.stage, self._failed_starts, self._pauses = "ready", 0, 0
        self._failures.pop(actor.place.node, None)
        self._shunned.pop(actor.place.node, None)

    def _lost(self, actor: WorkerActor, reason: str, own: bool = False) -> Answer | None:
        """Part from a worker; its unit, if it has one, is given back. `own`: its own code raised an exception."""
        self._end(actor)
        for other in self._actors:  # an idle neighbour may be dead too, and would lose the next unit
            if other.idle and not own and other.place == actor.place:
                other.show_life()
        if actor.unit is not None:
            return Answer(actor.unit, None, actor.name, lost=reason)
        if actor.stage != "ready" and (own or not self._node_left(actor)):
            self._start_failed(actor, reason)
        return None

    def _cut_off_overdue(self) -> list[Answer]:
        """Kill workers over the time limit. There is none for finding a node."""
        now, answers = time.monotonic(), []
        for actor in list(self._actors):
            if actor.stage == "preparing" and now - actor.since > self._preparing_seconds:
                self._lost(actor, f"it was not ready within {self._preparing_seconds:g} s", own=True)
            elif actor.unit is not None and now - actor.since > self._unit_seconds:
                answers.append(self._lost(actor, f"took longer than {self._unit_seconds:g} s", own=True))
        return [answer for answer in answers if answer is not None]

    def _fill(self) -> None:
        """Start the workers that are missing, unless starts have failed a moment ago.

        While the head is away nothing is started either: Ray would have us wait for it, and with us all other workers.
        """
        if not LOOKOUT.answered():
            return
        now = time.monotonic()
        self._shunned = {node: until for node, until in self._shunned.items() if until > now}
        for actor in self._actors:
            if actor.stage == "unplaced" and not actor.avoids <= self._shunned.keys():
                self._end(actor)  # to wait for the nodes that it was kept from, too
        missing = self._wanted - sum(not actor.leaving for actor in self._actors)
        if missing <= 0 or (self._actors and now < self._resume_at):
            return
        avoided = self._avoided()
        for _ in range(missing):
            self._started += 1
            name = f"worker-{self._started}"
            self._actors.append(start_actor(name, self._worker, self._setup, self._need, avoided))

    def _avoided(self) -> frozenset[str]:
        """Nodes where a start has just failed, as long as a worker could be on another."""
        if not self._shunned:
            return frozenset()
        nodes = LOOKOUT.now(_LOOK_SECONDS).nodes
        others = any(room.times(self._need) for node, room in nodes.items() if node not in self._shunned)
        return frozenset(self._shunned) if others else frozenset()

    def _start_failed(self, actor: WorkerActor, reason: str) -> None:
        now = time.monotonic()
        self._failed_starts += 1
        where = "" if actor.place is None else f" on {actor.place}"
        if actor.place is not None:
            self._failures[actor.place.node] += 1
            self._shunned[actor.place.node] = now + self._patience.after(self._failures[actor.place.node])
        if self._failed_starts >= self._patience.starts and all(one.stage == "unplaced" for one in self._actors):
            raise JobFailed(
                f"workers do not start, {self._failed_starts} in a row failed; the last one{where} said: {reason}"
            )
        _log.warning("a worker did not start%s: %s", where, reason)
        if self._failed_starts >= self._patience.starts and now >= self._resume_at:
            self._pauses += 1
            self._resume_at = now + self._patience.after(self._pauses)

    def _end(self, actor: WorkerActor) -> None:
        actor.kill()
        self._actors = [other for other in self._actors if other is not actor]

    def _node_left(self, actor: WorkerActor) -> bool:
        return actor.place is not None and actor.place.node in LOOKOUT.now(_LOOK_SECONDS).gone

    def _part_from_nodes_that_left(self) -> None:
        """A worker with nothing to do does not tell that it is dead."""
        gone = LOOKOUT.latest().gone
        for actor in self._actors:
            if actor.idle and actor.place is not None and actor.place.node in gone:
                self._end(actor)

    def _warn_of_no_room(self) -> None:
        capacity = LOOKOUT.latest().capacity
        if capacity.nodes and not capacity.workers(self._need):
            _log.warning(
                "no node could hold a worker of this job, which takes %s; the cluster has %s. The job waits for a node "
                "that can.",
                self._need,
                capacity,
            )

    def _say_what_is_waited_for(self) -> None:
        if any(actor.stage != "unplaced" for actor in self._actors):
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard >= self._patience.between_words:
            self._heard, seen = time.monotonic(), LOOKOUT.latest()
            _log.warning(
                "waiting for room: no node offers %s; the cluster has %s, of which %s are free",
                self._need,
                seen.capacity,
                seen.free,
            )


def _worth(actor: WorkerActor) -> int:
    """Which workers are kept where there are too many: those that have come furthest."""
    if actor.unit is not None:
        return 3
    return ("unplaced", "preparing", "ready").index(actor.stage)


def _bytes_to_read(plan: Plan) -> int:
    models = len(plan.template.experts) + (plan.template.base is not None)
    return plan.needs.model_bytes * models


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
