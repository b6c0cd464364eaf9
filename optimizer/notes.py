"""A job's page in the dashboard: notes and pictures that say what it searches and what it has found.

Written when an attempt begins, a few times on the way (each time the number of told trials has doubled, so that
10,000 trials make about ten pages), and at the end. It never stands in the search's way: what goes wrong here is
logged, and the next page is another try.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from sqlalchemy import Engine

from merging.methods import METHODS
from merging.recipe import Recipe
from optimizer import score_plots
from optimizer.artifacts import Album
from optimizer.coordinator import recipe_of
from optimizer.dashboard import write_note
from optimizer.heatmap import heatmap
from optimizer.jobs import Job
from optimizer.note_text import best_in_words, best_row, study_note, trial_note
from optimizer.results import Results, TrialRow
from optimizer.shown import WINNER
from optimizer.study import known
from search_spaces.protocol import SearchSpace

BEST = "best trial"  # the study's attribute for people; `WINNER` is the one for programs
FIRST = 8  # told trials, before the first page on the way
SECONDS_BETWEEN = 60.0
MOST_FINALISTS = 8  # with a page of their own

_log = logging.getLogger(__name__)


@dataclass
class Notes:
    """The page of one attempt's job.

    `results` gives what is known in a state ("running", say); `space` the job's space as it is now. Both are asked only
    when a page is due.
    """

    database: Engine
    job: Job
    study: optuna.Study
    results: Callable[[str], Results]
    space: Callable[[], SearchSpace]
    seconds_between: float = SECONDS_BETWEEN
    _told: int = 0
    _due: int = FIRST
    _written: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """The first page: what is searched, and what earlier attempts have found."""
        self._told = sum(trial.state.is_finished() for trial in known(self.study))
        self._due = max(FIRST, 2 * self._told)
        self._safely(lambda: self._write(self.results("running")))

    def told(self, number: int) -> None:  # noqa: ARG002 - which one it was does not matter here
        """A trial has been told. Most of the time this does nothing."""
        self._told += 1
        if self._told >= self._due and time.monotonic() - self._written >= self.seconds_between:
            self._due = 2 * self._told
            self._safely(lambda: self._write(self.results("running")))

    def done(self, results: Results) -> None:
        """The last page, and one for each finalist."""
        self._safely(lambda: self._write(results))
        self._safely(lambda: self._write_finalists(results))

    def stopped(self, state: str, error: str | None) -> None:
        """The page of a job that ends, or rests, without a winner."""
        self._safely(lambda: self._write(replace(self.results(state), error=error)))

    def _safely(self, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:
            _log.warning("the page of job `%s` in the dashboard could not be written: %s", self.job.name, error)
        self._written = time.monotonic()

    def _write(self, results: Results) -> None:
        best = best_row(results)
        recipe = self._recipe(best.number) if best is not None else None
        self._set(BEST, best_in_words(results))
        self._set(WINNER, results.winner)
        written = recipe.model_dump(mode="json", exclude_defaults=True) if recipe is not None else None
        write_note(self.study, study_note(results, self.job.spec, written, self._pictures(results, best, recipe)))

    def _set(self, key: str, value: Any) -> None:
        if value is not None and self.study.user_attrs.get(key) != value:
            self.study.set_user_attr(key, value)

    def _pictures(self, results: Results, best: TrialRow | None, recipe: Recipe | None) -> dict[str, str]:
        """Draw what there is to draw. The names say what is on a picture, not when it was drawn: it is replaced."""
        standings, split = (results.test, "test") if results.test else (results.select, "select")
        drawn: dict[str, str | None] = {}
        if best is not None and recipe is not None:
            named = "winner" if results.winner is not None else "best trial so far"
            drawn["Coefficients"] = heatmap(_coefficients(recipe), f"Coefficients of the {named}, {best.label}")
        for objective in results.objectives:
            several = f" of {objective.name}" if len(results.objectives) > 1 else ""
            drawn[f"Trials{several}"] = score_plots.history(results, objective)
            drawn[f"Scores{several}"] = score_plots.standings(standings, objective, split)
        drawn["Scores by task"] = score_plots.tasks(results, standings, split)
        drawn["Front"] = score_plots.front(results)
        album = self._album()
        return {name: album.show(name, svg) for name, svg in drawn.items() if svg is not None}

    def _write_finalists(self, results: Results) -> None:
        chosen = (results.winner, *(one.trial for one in results.select))
        numbers = [number for number in dict.fromkeys(chosen) if number is not None]
        rows = {row.number: row for row in results.trials}
        for number in numbers[:MOST_FINALISTS]:
            trial_id = known(self.study)[number]._trial_id
            svg = heatmap(_coefficients(self._recipe(number)), f"Coefficients of {rows[number].label}")
            picture = self._album().show("Coefficients", svg, trial_id) if svg is not None else None
            write_note(self.study, trial_note(results, rows[number], picture), number)

    def _recipe(self, number: int) -> Recipe:
        return recipe_of(known(self.study)[number], self.space())

    def _album(self) -> Album:
        return Album(self.database, self.study, self.job.id, self.job.attempt)


def _coefficients(recipe: Recipe) -> dict[str, dict[str, float]]:
    names = METHODS[recipe.method].coefficients(tuple(recipe.experts))
    return {group: dict(zip(names, row, strict=True)) for group, row in recipe.coefficients.items()}
