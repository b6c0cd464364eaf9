"""Whoever looks on while a job is carried out: its page in the dashboard, and the trackers it reports to.

They hear of everything and decide nothing. What goes wrong with them is logged; the search does not hear of it.
"""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import optuna
from sqlalchemy import Engine

from optimizer.jobs import Job, LeaseLost
from optimizer.notes import Notes
from optimizer.results import Results
from optimizer.scorer import Interrupted
from optimizer.spec import JobFile
from optimizer.study import known
from optimizer.trackers.protocol import Run
from optimizer.trackers.reporting import LAST_SECONDS, Reporting, settings_of
from search_spaces.protocol import SearchSpace

_PATIENCE = 5.0  # seconds for trackers where the job did not come to its end
_STATES = {"interrupt": "interrupted", "pause": "paused", "cancel": "cancelled"}


class Onlookers:
    """The onlookers of one attempt; a context that tells them how it began and how it ended.

    `results` gives what is known of the job in a state, `space` its space as it is now.
    """

    def __init__(
        self,
        database: Engine,
        job: Job,
        spec: JobFile,
        study: optuna.Study,
        results: Callable[[str], Results],
        space: Callable[[], SearchSpace],
    ) -> None:
        self._study = study
        self._notes = Notes(database, job, study, results, space)
        run = Run(job.name, job.id, job.created_at, Path(job.folder), settings_of(spec.model_dump(mode="json")))
        self._reporting = Reporting(spec.report_to, run, spec.objectives(), lambda: known(study))

    def __enter__(self) -> "Onlookers":
        self._notes.begin()
        self._reporting.begin()
        return self

    def told(self, number: int) -> None:
        """A trial has been told, its values or its failure. Quick: pages are written seldom, trackers have threads."""
        self._reporting.told(known(self._study)[number])
        self._notes.told(number)

    def done(self, results: Results) -> None:
        """The job's results are there. Call it before the job's row says so: after that, the attempt writes no more."""
        self._notes.done(results)
        self._reporting.done(results)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Interrupted):
            self._notes.stopped(_STATES[error.reason], None)
        elif isinstance(error, Exception) and not isinstance(error, LeaseLost):
            self._notes.stopped("failed", str(error) or type(error).__name__)
        self._reporting.close(LAST_SECONDS if error is None else _PATIENCE)
