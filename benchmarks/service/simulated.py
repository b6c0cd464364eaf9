"""Workers that only pretend: they take their time, and their answers follow from the recipe and the examples alone.

The clock says what their time is: `Scaled` sleeps it, as it is or faster, and is for whoever kills processes meanwhile;
`Skipping` jumps over what nobody waits for, and is for measuring. Two processes that score one recipe on one example
say the same of it, so a search that was torn can be compared with one that was not.
"""

import hashlib
import heapq
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from optimizer.pool import Answer, Unit


class Clock(Protocol):
    """Seconds of the workers' time."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def excused(self) -> AbstractContextManager[None]:
        """What is done inside takes no time: it is what simulating costs."""
        ...


@dataclass
class Scaled:
    """Time as it passes, `speed` times as fast: with 10, a trial of 30 s is over in 3."""

    speed: float = 1.0

    def now(self) -> float:
        return time.monotonic() * self.speed

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds) / self.speed)

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Simulating costs what it costs."""
        yield


@dataclass
class Skipping:
    """Time as it passes while somebody works; a sleep is over at once and counts in full."""

    _shift: float = 0.0

    def now(self) -> float:
        return time.perf_counter() + self._shift

    def sleep(self, seconds: float) -> None:
        self._shift += max(0.0, seconds)

    @contextmanager
    def excused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._shift -= time.perf_counter() - began


@dataclass
class SimulatedPool:
    """An `optimizer.pool.Pool` of `workers` that need `seconds(unit)` for each unit.

    `lost` says of a unit, and of how often it was asked before, whether its worker dies of it.
    """

    workers: int
    seconds: Callable[[Unit], float]
    clock: Clock = field(default_factory=Scaled)
    lost: Callable[[Unit, int], bool] = lambda _unit, _before: False
    asked: list[str] = field(default_factory=list)  # the keys of all units
    spans: list[tuple[float, float]] = field(default_factory=list)  # from when to when a worker had each of them
    _under_way: list[tuple[float, int, Unit]] = field(default_factory=list)
    _before: dict[str, int] = field(default_factory=dict)

    def idle(self) -> int:
        return max(0, self.workers - len(self._under_way))

    def submit(self, unit: Unit) -> None:
        if not self.idle():
            raise RuntimeError(f"a unit goes to an idle worker, but all {self.workers} are busy")
        now = self.clock.now()
        end = now + self.seconds(unit)
        heapq.heappush(self._under_way, (end, len(self.asked), unit))
        self.asked.append(unit.key)
        self.spans.append((now, end))

    def wait(self, seconds: float) -> list[Answer]:
        now = self.clock.now()
        first = self._under_way[0][0] if self._under_way else math.inf
        self.clock.sleep(min(first - now, seconds))
        found = []
        with self.clock.excused():
            while self._under_way and self._under_way[0][0] <= max(now, self.clock.now()):
                _, place, unit = heapq.heappop(self._under_way)
                found.append(self._answered(unit, f"simulated-{place % self.workers}"))
        return found

    def resize(self, count: int) -> None:
        self.workers = count

    def _answered(self, unit: Unit, worker: str) -> Answer:
        before = self._before.get(unit.key, 0)
        self._before[unit.key] = before + 1
        if self.lost(unit, before):
            return Answer(unit, None, worker, lost="the simulated worker was lost")
        return Answer(unit, answer(unit), worker)


def answer(unit: Unit) -> dict[str, Any]:
    """What a worker says of a unit: outcomes, or the gradient where scales are given, or statistics."""
    cost = {"seconds": {"forward": 0.9, "other": 0.1}, "tokens": {"forward": 50}, "model_seconds": 0.8, "error": None}
    if unit.statistics is not None:
        return {"file": "", **cost}
    if unit.scales is not None:
        return {**gradient(unit.recipe, unit.ids, unit.scales), **cost, "digest": ""}
    smooth = scores(unit.recipe, unit.ids)
    return {
        "ids": list(unit.ids),
        "metric": [float(value > 0.5) for value in smooth],
        "smooth": smooth,
        "loglikelihood": [math.log(value) for value in smooth],
        **cost,
        "digest": "",
    }


def scores(recipe: dict[str, Any], ids: Sequence[str]) -> list[float]:
    """How well the recipe does on each example, in (0, 1): better near a place that belongs to the example's task.

    Examples differ in how hard they are, and a recipe has more or less luck with each.
    """
    rows = recipe["coefficients"]
    luck = json.dumps(rows, sort_keys=True)
    away = {
        task: math.fsum((weight - _place(task, expert)) ** 2 for expert, weight in _weights(recipe)) / len(rows)
        for task in dict.fromkeys(map(_task, ids))
    }
    found = []
    for name in ids:
        odds = 2 - 6 * away[_task(name)] - 3 * uniform("hard", name) + 0.5 * (uniform("luck", name, luck) - 0.5)
        found.append(1 / (1 + math.exp(-odds)))
    return found


def gradient(recipe: dict[str, Any], ids: Sequence[str], scales: dict[str, float]) -> dict[str, Any]:
    """Losses of the examples, and the gradient of a bowl that has its bottom at the tasks' places."""
    rows = recipe["coefficients"]
    pulls = {task: scale * sum(_task(name) == task for name in ids) for task, scale in scales.items()}
    found = {
        group: [
            math.fsum(pull * 2 * (weight - _place(task, expert)) / len(rows) for task, pull in pulls.items())
            for expert, weight in zip(recipe["experts"], row, strict=True)
        ]
        for group, row in rows.items()
    }
    return {"ids": list(ids), "losses": [-math.log(value) for value in scores(recipe, ids)], "rows": found}


def uniform(*purpose: str) -> float:
    """A number in [0, 1) that belongs to these words."""
    digest = hashlib.blake2b("\0".join(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def lasting(seconds: float, spread: float = 0.0) -> Callable[[Unit], float]:
    """Every unit takes about so long; `spread` is the share by which it may be shorter or longer."""
    return lambda unit: seconds * (1 + spread * (2 * uniform("seconds", unit.key) - 1))


def _place(task: str, expert: str) -> float:
    return 0.2 + 0.6 * uniform("place", task, expert)


def _weights(recipe: dict[str, Any]) -> list[tuple[str, float]]:
    """Every coefficient with the expert it is of."""
    return [pair for row in recipe["coefficients"].values() for pair in zip(recipe["experts"], row, strict=True)]


def _task(example: str) -> str:
    return example.rpartition(":")[0]
