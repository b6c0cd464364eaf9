"""A small real search that is watched: its trials are passed on as they are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from optimizer.jobs import get_job
from optimizer.notes import Notes
from optimizer.progress import PlainLines, Standings
from optimizer.results import Results
from optimizer.study import known
from optimizer.summary import Summary
from tests.integration.search.bench import Attempt, Bench, FormulaPool, finish_of, job_file

Told = Callable[[int], None]


class PassedOn(PlainLines):
    """Progress that passes on each trial once it has been told."""

    def __init__(self, study: optuna.Study, told: Told) -> None:
        self._study, self._told = study, told
        self._seen = {trial.number for trial in known(study) if trial.state.is_finished()}

    def say(self, text: str) -> None:
        """Nobody reads a test's terminal."""

    def search(self, standings: Standings) -> None:  # noqa: ARG002 - only that there is news counts
        for trial in known(self._study):
            if trial.state.is_finished() and trial.number not in self._seen:
                self._seen.add(trial.number)
                self._told(trial.number)


def bench_of(folder: Path, trials: int, **changes: Any) -> Bench:
    """A job with a random search of so many trials."""
    return Bench(folder, job_file(**{"search": {"engine": "random", "budget": {"trials": trials}}} | changes))


def summary_of(bench: Bench, attempt: Attempt) -> Callable[[str], Results]:
    """What is known of the job so far, in a state."""
    job = get_job(bench.database, bench.job.name)
    return lambda state: Summary(job, bench.job, bench.plan, attempt.study, attempt.evidence).results(
        None, state, 1.0, 0
    )


def results_of(bench: Bench, attempt: Attempt) -> Results:
    """Choose the winner, open the test split, and say what came of it."""
    ending = finish_of(bench, attempt, whole=bench.plan.examples["search"]).run()
    job = get_job(bench.database, bench.job.name)
    return Summary(job, bench.job, bench.plan, attempt.study, attempt.evidence).results(ending, "done", 1.0, 1)


def notes_of(bench: Bench, attempt: Attempt, seconds_between: float = 0.0) -> Notes:
    """The notes of this attempt."""
    return Notes(
        database=bench.database,
        job=get_job(bench.database, bench.job.name),
        study=attempt.study,
        results=summary_of(bench, attempt),
        space=lambda: bench.plan.space(bench.job),
        seconds_between=seconds_between,
    )


def watched(bench: Bench, told: Callable[[Attempt], Told], pool: FormulaPool | None = None) -> Attempt:
    """Carry out an attempt's search, and pass on what is told."""
    attempt = bench.attempt(pool or FormulaPool())
    attempt.coordinator.progress = PassedOn(attempt.study, told(attempt))
    attempt.coordinator.search()
    return attempt
