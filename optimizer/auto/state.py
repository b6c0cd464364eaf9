"""What the strategy knows: candidates, their outcomes, and what all of it has cost."""

import random
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluators.protocol import Outcome, Split
from optimizer.auto.asks import Answer, Array, Ask, Candidate, Close, Origin, Score, Scored, Slope
from optimizer.auto.problem import Problem
from optimizer.auto.values import task_of
from optimizer.batches import shares
from optimizer.efe import SCORED
from optimizer.engines.seeds import seed_for
from search_spaces.nested import Frame

Asking = Generator[list[Ask], list[Answer], Any]

SMOOTH_SHARE = 0.5  # of the smooth score in what a generation is ranked by


class State:
    """Grows with every answer; the same asks and answers make the same state."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.spent = 0
        self.candidates: list[Candidate] = []
        self.failed: dict[int, str] = {}
        self.joined: list[str] = []  # virtual experts
        self._closed: set[int] = set()
        self._known: dict[tuple[int, Split], dict[str, Outcome]] = {}
        self._drawn: dict[str, int] = {}
        self._taught: set[str] = set()
        self._tasks: dict[Split, dict[str, list[str]]] = {}

    @property
    def frame(self) -> Frame:
        """The space, of which only the experts that are there may move."""
        problem = self.problem
        if not problem.virtual:
            return problem.frame
        absent = [name for name in problem.virtual if name not in self.joined]
        return problem.frame.only([name for name in problem.frame.coefficients if name not in absent])

    # ---- money

    @property
    def left(self) -> int:
        """What is left of the budget, in EFE."""
        return self.problem.budget - self.spent

    @property
    def reserve(self) -> int:
        """What the end may take, in EFE: finalists on select, the winner on all of search; a fifth of all at most."""
        examples = self.problem.examples
        return min(self.problem.finalists * len(examples["select"]) + len(examples["search"]), self.problem.budget // 5)

    def over(self) -> bool:
        """Whether the budget's minutes are over."""
        return self.problem.time_is_up()

    # ---- candidates

    def candidate(
        self, point: Array | None, origin: Origin = "search", label: str | None = None, **about: Any
    ) -> Candidate:
        """A new candidate, counted."""
        made = Candidate(len(self.candidates), point, origin, label, about)
        self.candidates.append(made)
        return made

    def outcomes(self, candidate: Candidate, split: Split = "search") -> Mapping[str, Outcome]:
        """What is known of a candidate on a split, by example."""
        return self._known.get((candidate.number, split), {})

    def score(self, wanted: Sequence[tuple[Candidate, Sequence[str]]], split: Split = "search") -> Asking:
        """Have candidates scored, each on its examples as far as they are not known yet; all are asked at once."""
        asks: list[Ask] = []
        for candidate, ids in wanted:
            known = self.outcomes(candidate, split)
            missing = tuple(name for name in ids if name not in known)
            if missing and candidate.number not in self.failed:
                asks.append(Score(candidate, missing, split))
                self.spent += SCORED * len(missing)
        if asks:
            answers = yield asks
            for ask, answer in zip(asks, answers, strict=True):
                assert isinstance(ask, Score)
                assert isinstance(answer, Scored)
                if answer.error is not None:
                    self.failed[ask.candidate.number] = answer.error
                else:
                    found = self._known.setdefault((ask.candidate.number, split), {})
                    found.update({one.id: one for one in answer.outcomes})

    def slope(self, point: Array, ids: tuple[str, ...]) -> Slope:
        """The ask for the gradient on these examples, charged. Only the first time is a teacher asked as well."""
        taught = [name for name in self.problem.measure.taught(ids) if name not in self._taught]
        self._taught.update(taught)
        ask = Slope(point, ids, self.problem.measure.counted(), len(taught), tuple(self.joined))
        self.spent += ask.price
        return ask

    # ---- comparing

    def values(self, candidate: Candidate, ids: Sequence[str], split: Split = "search") -> Array:
        """A candidate's values on examples that it was scored on."""
        known = self.outcomes(candidate, split)
        return self.problem.measure.values([known[name] for name in ids])

    def mean(self, candidate: Candidate, ids: Sequence[str], split: Split = "search") -> float:
        """A candidate's objective on examples it was scored on; minus infinity where it failed."""
        if candidate.number in self.failed:
            return -np.inf
        return float(self.problem.measure.weights(ids) @ self.values(candidate, ids, split))

    def rank_value(self, candidate: Candidate, ids: Sequence[str]) -> float:
        """What a generation is ranked by: the objective, and half of the smooth score where there is one.

        The smooth score tells apart what the metric of a few examples cannot.
        """
        value = self.mean(candidate, ids)
        if candidate.number in self.failed or self.problem.measure.signal == "smooth":
            return value
        known = self.outcomes(candidate)
        measure = self.problem.measure
        smooth = float(measure.weights(ids) @ measure.values([known[name] for name in ids], "smooth"))
        return value + SMOOTH_SHARE * smooth if np.isfinite(smooth) else value

    def seen_mean(self, candidate: Candidate) -> float:
        """A candidate's objective on all search examples it was scored on."""
        return self.mean(candidate, list(self.outcomes(candidate)))

    def common(self, one: Candidate, other: Candidate, split: Split = "search") -> list[str]:
        """The examples that both were scored on."""
        theirs = self.outcomes(other, split)
        return [name for name in self.outcomes(one, split) if name in theirs]

    def paired(self, one: Candidate, other: Candidate, split: Split = "search") -> tuple[float, float]:
        """Mean and standard error of `one` minus `other` on the examples both were scored on."""
        ids = self.common(one, other, split)
        if not ids:
            return 0.0, np.inf
        differences = self.values(one, ids, split) - self.values(other, ids, split)
        measure = self.problem.measure
        return float(measure.weights(ids) @ differences), measure.standard_error(ids, differences)

    def closing(self, candidates: Sequence[Candidate]) -> list[Ask]:
        """The asks that end these candidates, as far as they have not ended."""
        open_ones = [one for one in candidates if one.number not in self._closed]
        self._closed.update(one.number for one in open_ones)
        return [self.close(one) for one in open_ones]

    def close(self, candidate: Candidate) -> Close:
        """The ask that ends a candidate, with what its search outcomes say."""
        ids = list(self.outcomes(candidate))
        if not ids or candidate.number in self.failed:
            return Close(candidate, None, None, len(ids))
        error = self.problem.measure.standard_error(ids, self.values(candidate, ids))
        return Close(candidate, self.mean(candidate, ids), error if np.isfinite(error) else None, len(ids))

    # ---- drawing examples

    def fresh(self, split: Split, count: int, stream: str, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """The next examples of a stream over a split: every task by its share, none twice within a pass.

        Each pass over a task has a new order. `tasks` names those it is about; all where None.
        """
        found: list[str] = []
        by_task = {task: ids for task, ids in self._by_task(split).items() if tasks is None or task in tasks}
        for task, share in shares(by_task, count).items():
            found += self._next(split, task, by_task[task], share, stream)
        return tuple(found)

    def size(self, split: Split, count: int) -> int:
        """How many examples `fresh` gives where `count` are wanted: every task needs some of them."""
        return sum(shares(self._by_task(split), count).values())

    def _by_task(self, split: Split) -> dict[str, list[str]]:
        if split not in self._tasks:
            found = self._tasks.setdefault(split, {})
            for name in self.problem.examples[split]:
                found.setdefault(task_of(name), []).append(name)
        return self._tasks[split]

    def _next(self, split: Split, task: str, ids: list[str], count: int, stream: str) -> list[str]:
        key = f"{split}/{stream}/{task}"
        found: list[str] = []
        while len(found) < min(count, len(ids)):
            at = self._drawn.get(key, 0)
            passes, place = divmod(at, len(ids))
            order = list(ids)
            random.Random(seed_for(self.problem.seed, "examples", key, passes)).shuffle(order)
            for name in order[place:]:
                at += 1
                if name not in found:
                    found.append(name)
                if len(found) == min(count, len(ids)):
                    break
            self._drawn[key] = at
        return found
