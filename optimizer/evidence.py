"""The outcomes of one job, to and from the database."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from evaluators.protocol import Outcome, Split
from optimizer.examples import LedgerEntry
from optimizer.gradients import RecordedGradient, read_gradients, record_gradient
from optimizer.outcomes import Columns, Recorded, read_outcomes, record_outcomes
from optimizer.scorer import Finished


@dataclass
class Evidence:
    """A job's examples and what has been recorded of them, by this attempt and by earlier ones."""

    database: Engine
    job_id: int
    attempt: int
    examples: list[LedgerEntry]
    _known: dict[tuple[int, Split], list[Outcome]] = field(default_factory=dict)

    def ids(self, split: Split) -> list[str]:
        """The ids of a split's examples, in the ledger's order."""
        return [example.id for example in self.examples if example.split == split]

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
        position = {example.id: index for index, example in enumerate(self.examples)}
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
        self._known[wanted.trial, wanted.split] = [*before, *outcomes]

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
        found: dict[tuple[int, str], int] = {}
        for row in read_outcomes(self.database, self.job_id):
            found[row.trial, row.split] = max(found.get((row.trial, row.split), 0), row.round + 1)
        return found

    def outcomes(self, trial: int, split: Split) -> list[Outcome] | None:
        """A trial's outcomes on a split, None where none were recorded."""
        if (trial, split) not in self._known:
            rows = read_outcomes(self.database, self.job_id, trial=trial, split=split)
            if not rows:
                return None
            self._known[trial, split] = [outcome for row in rows for outcome in self._unpacked(row.columns)]
        return self._known[trial, split]

    def seconds_so_far(self) -> float:
        """The time from the first to the last recorded round, summed over the attempts at the job."""
        spans: dict[int, list[float]] = {}
        rows: list[Recorded | RecordedGradient] = [*read_outcomes(self.database, self.job_id), *self.gradients()]
        for row in rows:
            end = row.created_at.timestamp()
            spans.setdefault(row.attempt, []).extend((end - row.seconds, end))
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
