"""Get rounds scored by the workers and recorded exactly once, whatever dies meanwhile."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evaluators.protocol import Outcome, Split
from merging.recipe import Recipe
from optimizer.pool import Answer, Pool, Unit

_log = logging.getLogger(__name__)

LOST_LIMIT = 3  # a recipe that takes three workers with it is broken itself


class Interrupted(Exception):
    """The search was asked to stop: `reason` is `interrupt` or `pause` (both resumable), or `cancel`."""

    def __init__(self, reason: Literal["interrupt", "pause", "cancel"]) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Round:
    """The examples of one split, scored together for one trial; only those of `ids` where they are given.

    A trial may have several rounds of a split; `index` counts them. With `scales`, the gradient of the recipe's
    coefficients is wanted instead of scores (see `optimizer.worker.Worker.gradient`); `trial` then counts gradients.
    With `statistics`, it is a file of them (see `Worker.statistics`), and `trial` counts files.
    """

    trial: int
    split: Split
    recipe: Recipe
    ids: tuple[str, ...] | None = None
    index: int = 0
    scales: dict[str, float] | None = None
    statistics: dict[str, str] | None = None

    @property
    def key(self) -> str:
        """What tells it from every other round of its job; gradients have a split of their own."""
        kind = "" if self.statistics is None else "statistics/"
        return f"{kind}{self.trial}/{self.split}" + (f"/{self.index}" if self.index else "")


@dataclass(frozen=True)
class Finished:
    """A round that has ended: its outcomes, or the reason why there are none; and what it cost its worker.

    Where a gradient was wanted, `losses` and `rows` are the answer and there are no outcomes.
    """

    round: Round
    outcomes: list[Outcome]
    seconds: dict[str, float]
    error: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    model_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    rows: dict[str, list[float]] = field(default_factory=dict)
    file: str = ""


@dataclass
class Scorer:
    """Feeds idle workers from a source of rounds and records what comes back before anyone hears of it.

    `ids` gives the examples of a split. `record` stores a round's outcomes and raises where another coordinator has
    taken over. `check` is called about once a second, renews the lease and raises `Interrupted` where the search
    should stop.
    """

    pool: Pool
    ids: Callable[[Split], Sequence[str]]
    record: Callable[[Finished, str], None]
    check: Callable[[], None]
    _rounds: dict[str, Round] = field(default_factory=dict)
    _lost: dict[str, int] = field(default_factory=dict)
    _again: deque[Unit] = field(default_factory=deque)

    def run(self, source: Callable[[], Round | None]) -> Iterator[Finished]:
        """Every round the source gives, as it ends.

        The source says None when it has nothing for now, and is asked again after each result; the run is over when
        it has nothing and no round is under way.
        """
        while True:
            self.check()
            self._fill(source)
            if not self._rounds:
                return
            for answer in self.pool.wait(1.0):
                finished = self._settle(answer)
                if finished is not None:
                    yield finished

    def _fill(self, source: Callable[[], Round | None]) -> None:
        """Give every idle worker something to do, lost rounds first. A pool still starting up is asked again."""
        while self._again and self.pool.idle():
            self.pool.submit(self._again.popleft())
        while self.pool.idle() or not self._rounds:
            following = source()
            if following is None:
                return
            unit = self._unit(following)
            self._rounds[unit.key] = following
            if self.pool.idle():
                self.pool.submit(unit)
            else:
                self._again.append(unit)

    def _unit(self, wanted: Round) -> Unit:
        ids = wanted.ids if wanted.ids is not None else tuple(self.ids(wanted.split))
        recipe = wanted.recipe.model_dump(mode="json")
        return Unit(key=wanted.key, recipe=recipe, ids=ids, scales=wanted.scales, statistics=wanted.statistics)

    def _settle(self, answer: Answer) -> Finished | None:
        """Record a round that ended; put it back in the queue where its worker was lost."""
        key = answer.unit.key
        wanted = self._rounds[key]
        if answer.scored is not None:
            finished = finished_from(wanted, answer.scored)
            if finished.error is None and wanted.statistics is None:
                self.record(finished, answer.worker)
        else:
            self._lost[key] = self._lost.get(key, 0) + 1
            told = {"trial": wanted.trial}
            _log.warning("worker lost on trial %d (%s): %s", wanted.trial, wanted.split, answer.lost, extra=told)
            if self._lost[key] < LOST_LIMIT:
                self._again.append(answer.unit)
                return None
            reason = f"{LOST_LIMIT} workers in a row were lost on this recipe; the last one: {answer.lost}"
            finished = Finished(wanted, [], {}, reason)
        del self._rounds[key]
        self._lost.pop(key, None)
        return finished


def each_of(rounds: Sequence[Round]) -> Callable[[], Round | None]:
    """A source for `Scorer.run`: one round after the other, then None."""
    waiting = iter(rounds)
    return lambda: next(waiting, None)


def finished_from(wanted: Round, scored: dict[str, Any]) -> Finished:
    """A worker's `Scored` or `Differentiated` as what became of the round."""
    spent = (scored["seconds"], scored["error"], scored["tokens"], scored["model_seconds"])
    if wanted.statistics is not None:
        return Finished(wanted, [], *spent, file=scored["file"])
    if wanted.scales is not None:
        return Finished(wanted, [], *spent, losses=scored["losses"], rows=scored["rows"])
    return Finished(wanted, outcomes_from(scored), *spent)


def outcomes_from(scored: dict[str, Any]) -> list[Outcome]:
    """A worker's columns as one outcome per example."""
    columns = zip(scored["ids"], scored["metric"], scored["smooth"], scored["loglikelihood"], strict=True)
    return [Outcome(name, metric, smooth, loglikelihood) for name, metric, smooth, loglikelihood in columns]
