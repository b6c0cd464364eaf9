"""The outcomes of one job, to and from the database."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from evaluators.protocol import Outcome, Split
from optimizer.examples import LedgerEntry
from optimizer.gradients import RecordedGradient, read_gradients, record_gradient
from optimizer.outcomes import Columns, count_rounds, read_outcomes, record_outcomes, recorded_times
from optimizer.scorer import Finished

HELD = 200_000  # outcomes in memory, some 50 MB: what ten thousand trials leave behind is in the database


@dataclass
class Evidence:
    """A job's examples and what has been recorded of them, by this attempt and by earlier ones."""

    database: Engine
    job_id: int
    attempt: int
    examples: list[LedgerEntry]
    _known: OrderedDict[tuple[int, Split], list[Outcome]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._positions = {example.id: index for index, example in enumerate(self.examples)}
        self._ids: dict[Split, tuple[str, ...]] = {}
        self._held = 0

    def ids(self, split: Split) -> tuple[str, ...]:
        """The ids of a split's examples, in the ledger's order."""
        if split not in self._ids:
            self._ids[split] = tuple(example.id for example in self.examples if example.split == split)
        return self._ids[split]

    def by_task(self, outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
        """Outcomes under their tasks, both in the ledger's order."""
        found = {outcome.id: outcome for outcome in outcomes}
        grouped: dict[str, list[Outcome]] = {}
        for example in self.examples:
            if example.id in found:
                grouped.setdefault(example.task, []).append(found[example.id])
        return grouped

    def record(self, finished: Finished, worker: str) -> None:
        """Keep a round's outcomes, once. Raises `LeaseLost` where another attempt has taken the job over."""
        position = self._positions
        outcomes, wanted = finished.outcomes, finished.round
        if wanted.scales is not None:
            self._record_gradient(finished, worker, position)
            return
        # before a round of the whole split there is none; parts of one may end in any order
        before = [] if wanted.ids is None else self.outcomes(wanted.trial, wanted.split) or []
        record_outcomes(
            self.database,
            self.job_id,
            self.attempt,
            trial=wanted.trial,
            split=wanted.split,
            round=wanted.index,
            digest=wanted.recipe.digest(),
            columns=Columns(
                positions=np.array([position[outcome.id] for outcome in outcomes], np.int32),
                metric=np.array([outcome.metric for outcome in outcomes], np.float64),
                smooth=_with_gaps([outcome.smooth for outcome in outcomes]),
                loglikelihood=_with_gaps([outcome.loglikelihood for outcome in outcomes]),
            ),
            seconds=sum(finished.seconds.values()),
            worker=worker,
        )
        self._keep(wanted.trial, wanted.split, [*before, *outcomes])

    def _record_gradient(self, finished: Finished, worker: str, position: Mapping[str, int]) -> None:
        wanted = finished.round
        assert wanted.ids is not None
        record_gradient(
            self.database,
            self.job_id,
            self.attempt,
            number=wanted.trial,
            shard=wanted.index,
            digest=wanted.recipe.digest(),
            positions=[position[name] for name in wanted.ids],
            losses=finished.losses,
            rows=finished.rows,
            seconds=sum(finished.seconds.values()),
            worker=worker,
        )

    def gradients(self) -> list[RecordedGradient]:
        """What is recorded of the gradient batches, by number and shard."""
        return read_gradients(self.database, self.job_id)

    def rounds(self) -> dict[tuple[int, str], int]:
        """For every trial and split, how many rounds are recorded."""
        return count_rounds(self.database, self.job_id)

    def outcomes(self, trial: int, split: Split) -> list[Outcome] | None:
        """A trial's outcomes on a split, None where none were recorded."""
        if (trial, split) not in self._known:
            rows = read_outcomes(self.database, self.job_id, trial=trial, split=split)
            if not rows:
                return None
            self._keep(trial, split, [outcome for row in rows for outcome in self._unpacked(row.columns)])
        self._known.move_to_end((trial, split))
        return self._known[trial, split]

    def _keep(self, trial: int, split: Split, outcomes: list[Outcome]) -> None:
        """In memory too, for as long as there is room: what is asked for again is what was asked for lately."""
        self._held += len(outcomes) - len(self._known.pop((trial, split), ()))
        self._known[trial, split] = outcomes
        while self._held > HELD and len(self._known) > 1:
            self._held -= len(self._known.popitem(last=False)[1])

    def seconds_so_far(self) -> float:
        """The time from the first to the last recorded round, summed over the attempts at the job."""
        spans: dict[int, list[float]] = {}
        gradients = [(row.attempt, row.seconds, row.created_at) for row in self.gradients()]
        for attempt, seconds, at in [*recorded_times(self.database, self.job_id), *gradients]:
            end = at.timestamp()
            spans.setdefault(attempt, []).extend((end - seconds, end))
        return sum(max(moments) - min(moments) for moments in spans.values())

    def _unpacked(self, columns: Columns) -> list[Outcome]:
        assert columns.smooth is not None  # as read back, absent values are NaN
        assert columns.loglikelihood is not None
        rows = zip(columns.positions, columns.metric, columns.smooth, columns.loglikelihood, strict=True)
        return [
            Outcome(self.examples[position].id, float(metric), _or_none(smooth), _or_none(loglikelihood))
            for position, metric, smooth, loglikelihood in rows
        ]


def _with_gaps(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
