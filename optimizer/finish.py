"""Choose the winner on examples the search did not follow, then open the test split once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna

from evaluators.aggregate import objectives
from evaluators.protocol import Outcome, Split, Task
from merging.recipe import Recipe
from optimizer.bounds import broken, references, total, violations
from optimizer.errors import JobFailed
from optimizer.progress import Progress
from optimizer.scorer import Round, Scorer, each_of
from optimizer.study import all_trials

Recorded = Callable[[int, Split], list[Outcome] | None]
FINALISTS = 3  # of the search, where the job names no number


@dataclass(frozen=True)
class Ending:
    """How a search ends: the finalists in the order they were found, and the one that goes to the test split."""

    finalists: tuple[int, ...]
    winner: int


@dataclass
class Finish:
    """The last rounds of a job. Rounds that are already recorded are not scored again.

    `whole` is the number of examples of the search split: trials scored on fewer are no finalists by their score.
    """

    study: optuna.Study
    tasks: Sequence[Task]
    scorer: Scorer
    recipe: Callable[[int], Recipe]
    recorded: Recorded
    open_test: Callable[[], None]
    progress: Progress
    count: int
    whole: int = 0

    def run(self, ending: Ending | None = None) -> Ending:
        """Score the finalists on select, and the winner with every baseline on test.

        `ending` is given where the search itself has chosen on select. Raises `JobFailed` where no trial has a score,
        and `Interrupted` as the scorer does.
        """
        if ending is None:
            ending = self._chosen()
        self._open(ending.winner)
        return ending

    def _chosen(self) -> Ending:
        chosen = finalists(self.study, self.count, self.whole)
        if not chosen:
            raise JobFailed(
                "no trial has a score, so there is nothing to choose from; `mergeopt show` lists the reasons"
            )
        self.progress.say(f"Scoring {len(chosen)} finalists on the select split")
        measured_from = [self._numbered(label) for label in references(self.tasks)]
        self._score([*chosen, *(number for number in measured_from if number not in chosen)], "select")
        return Ending(tuple(chosen), self._best_on_select(chosen))

    def _open(self, winner: int) -> None:
        """Score the winner and every baseline on test, as far as they are not."""
        compared = [winner, *(number for number in baseline_trials(self.study) if number != winner)]
        missing = [number for number in compared if self.recorded(number, "test") is None]
        if missing:
            self.progress.say(f"Opening the test split for the winner and {len(compared) - 1} baselines")
            self.open_test()
            self._score(missing, "test")

    def _score(self, numbers: Sequence[int], split: Split) -> None:
        open_rounds = [
            Round(number, split, self.recipe(number)) for number in numbers if self.recorded(number, split) is None
        ]
        for finished in self.scorer.run(each_of(open_rounds)):
            if finished.error is not None:
                self.progress.say(f"trial {finished.round.trial} has no {split} score: {finished.error}")

    def _best_on_select(self, numbers: Sequence[int]) -> int:
        """The finalist with the best metric on select; of equals a baseline first, then the earlier one.

        One that keeps the job's bounds there comes before any that does not.
        """
        baselines = baseline_trials(self.study)
        scores = {}
        for number in numbers:
            outcomes = self.recorded(number, "select")
            if outcomes:
                values = objectives(outcomes, self.tasks).values()
                # Rounded: means that are equal over several tasks may differ in their last bit.
                beyond = total(violations(outcomes, self.tasks, self._select_of))
                scores[number] = (-beyond, round(sum(values) / len(values), 9))
        if not scores:
            raise JobFailed("no finalist could be scored on the select split; the reasons are above")
        return max(scores, key=lambda number: (scores[number], number in baselines, -number))

    def _numbered(self, label: str) -> int:
        return next(trial.number for trial in all_trials(self.study) if trial.user_attrs.get("label") == label)

    def _select_of(self, label: str) -> list[Outcome] | None:
        return self.recorded(self._numbered(label), "select")


def finalists(study: optuna.Study, count: int, whole: int = 0) -> list[int]:
    """The engine's own answer, the best baseline, and the `count` best of the search, by trial number.

    Where trials were scored on fewer than `whole` examples, the lucky ones would be the best: of the search none is
    taken then, and of the baselines `count`, whose screen is too small to choose by.
    With several objectives, those of the Pareto front come first, by their mean over the objectives. Trials that keep
    the job's bounds come before those that do not, and these by how far they are beyond.
    """
    scored = [trial for trial in all_trials(study) if trial.state == optuna.trial.TrialState.COMPLETE]
    front = _front(scored)
    ranked = sorted(scored, key=lambda trial: (broken(trial), trial.number not in front, -_mean(trial), trial.number))

    def of(origin: str) -> list[int]:
        return [trial.number for trial in ranked if trial.user_attrs.get("origin") == origin]

    if any(trial.user_attrs.get("examples", whole) < whole for trial in scored):
        return sorted({*of("recommendation"), *of("baseline")[:count]})
    return sorted({*of("recommendation"), *of("baseline")[:1], *of("search")[:count]})


def baseline_trials(study: optuna.Study) -> list[int]:
    """The numbers of the baselines that have a score, in order."""
    return [
        trial.number
        for trial in all_trials(study)
        if trial.user_attrs.get("origin") == "baseline" and trial.state == optuna.trial.TrialState.COMPLETE
    ]


def _front(scored: Sequence[optuna.trial.FrozenTrial]) -> set[int]:
    """The numbers of the trials that none dominates: in the order looked at, whoever dominates another comes first."""
    least = min((broken(trial) for trial in scored), default=0.0)
    kept = [trial for trial in scored if broken(trial) == least]
    found: list[optuna.trial.FrozenTrial] = []
    for trial in sorted(kept, key=lambda one: tuple(-value for value in one.values)):
        if not any(_dominates(other, trial) for other in found):
            found.append(trial)
    return {trial.number for trial in found}


def _dominates(one: optuna.trial.FrozenTrial, other: optuna.trial.FrozenTrial) -> bool:
    if broken(one) != broken(other):
        return broken(one) < broken(other)
    pairs = list(zip(one.values, other.values, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _mean(trial: optuna.trial.FrozenTrial) -> float:
    return float(sum(trial.values) / len(trial.values))
