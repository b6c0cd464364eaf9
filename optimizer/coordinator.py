"""Carry one job's search: the only process that asks the engine and tells the study."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna

from evaluators.aggregate import objectives
from evaluators.protocol import Outcome
from merging.recipe import Recipe
from optimizer.batches import Batches
from optimizer.bounds import broken, references, violations
from optimizer.cost import cost_attributes
from optimizer.engines.protocol import Engine
from optimizer.errors import JobFailed
from optimizer.plan import Plan
from optimizer.progress import Progress, Standings
from optimizer.scorer import Finished, Round, Scorer
from optimizer.spec import JobFile
from optimizer.study import enqueue_baseline, known, open_waiting, points, tell
from optimizer.told import attributes_of, bound_attributes
from search_spaces.protocol import SearchSpace

RECOMMENDATION = "recommendation"
LOOK_SECONDS = 1.0  # between looks for trials that somebody else has queued; our own are known
FAILURES_IN_A_ROW = 5  # with no success at all: the job is broken, not its candidates


@dataclass
class Coordinator:
    """One job's search, from its first baseline to the engine's own answer.

    Everything it decides follows from the study and the recorded outcomes, so a coordinator that starts on a
    half-done study goes on where the last one was killed.
    `recorded` gives the outcomes of a trial's search round that an earlier attempt scored, or None; `seconds_before`
    is the time earlier attempts spent. With `batches`, baselines are scored on a screen and candidates on the batch of
    their generation; the search begins at the best baseline of the screen.
    """

    job: JobFile
    plan: Plan
    study: optuna.Study
    engine: Engine
    scorer: Scorer
    progress: Progress
    recorded: Callable[[int], list[Outcome] | None]
    seconds_before: float = 0.0
    batches: Batches | None = None
    told: Callable[[int], None] = lambda _: None

    def __post_init__(self) -> None:
        self._references = references(self.plan.tasks)
        self._space = self.plan.space(self.job)
        self._distributions = self._space.distributions()
        self._trials = known(self.study)
        self._orphans = self._trials.running()
        self._held: list[Finished] = []  # scored, but something their bounds are measured from is not yet
        self._began = time.monotonic()
        self._looked = -math.inf
        self._opened = self._given_out = self._finished = self._failed = self._scored_here = 0
        self._begun = self.batches is None
        self._best: tuple[float, int, float, str] | None = None  # negated violation, examples, value, label
        self._kept = 1 if self.engine.recommends and not self._has(RECOMMENDATION) else 0
        self._each = None if self.batches is None else sum(self.batches.shares().values())
        for trial in self._trials:
            if trial.state != optuna.trial.TrialState.WAITING:
                self._opened += 1
                self._given_out += self._examples_of(trial)
            self._count(trial)

    def search(self) -> None:
        """Run the baselines, the search and the engine's answer. Raises `Interrupted` or `JobFailed`."""
        self._enqueue_baselines()
        self._run()
        answer = self.engine.recommend() if self._kept else None
        self._kept = 0
        if answer is not None:
            enqueue_baseline(self.study, answer, {"origin": RECOMMENDATION, "label": "the engine's answer"})
        self._run()

    def recipe(self, trial: optuna.trial.FrozenTrial) -> Recipe:
        """The recipe of any trial of the job's study."""
        return recipe_of(trial, self._space)

    def _enqueue_baselines(self) -> None:
        # what bounds are measured from is scored first: without it nothing can be told
        for baseline in sorted(self.plan.baselines, key=lambda one: one.label not in self._references):
            if self._trials.labelled(baseline.label) is None:
                attributes = {"origin": "baseline", "kind": baseline.kind, "label": baseline.label}
                if baseline.parameters is None:
                    attributes["recipe"] = baseline.recipe.model_dump_json()
                enqueue_baseline(self.study, baseline.parameters, attributes)

    def _run(self) -> None:
        for finished in self.scorer.run(self._next):
            self._tell(finished)
            self.progress.search(self._standings())

    def _next(self) -> Round | None:
        """Trials an earlier attempt left open, then enqueued ones, then the engine's while the budget lasts."""
        if self._a_reference_is_out():
            return None
        found = self._next_waiting()
        if found is not None or self._budget_used() >= 1:
            return found
        if not self._begin():
            return None
        return self._opened_round(self.engine.ask())

    def _begin(self) -> bool:
        """Start at the best baseline; False while one of them is still being scored."""
        if not self._begun:
            if self._trials.running():
                return False
            told = points(self.study, self._distributions, (optuna.trial.TrialState.COMPLETE,))
            screened = [trial for trial in told if trial.user_attrs.get("origin") == "baseline"]
            if screened:
                self.engine.begin_at(max(screened, key=lambda one: (-broken(one), sum(one.values), -one.number)).params)
            self._begun = True
        return True

    def _a_reference_is_out(self) -> bool:
        """Whether a model that bounds are measured from is being scored: whoever came back before it would wait."""
        waiting = {orphan.number for orphan in self._orphans} | {finished.round.trial for finished in self._held}
        found = [self._trials.labelled(label) for label in self._references]
        return any(
            trial is not None and trial.state == optuna.trial.TrialState.RUNNING and trial.number not in waiting
            for trial in found
        )

    def _reference(self, label: str) -> list[Outcome] | None:
        trial = self._trials.labelled(label)
        return None if trial is None else self.recorded(trial.number)

    def _next_waiting(self) -> Round | None:
        while self._orphans:
            orphan = self._orphans.pop(0)
            outcomes = self.recorded(orphan.number)
            if outcomes is None:
                return self._round(orphan)
            self._tell(Finished(self._round(orphan), outcomes, {}))
        now = time.monotonic()
        if not self._trials.waiting() and now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        return self._opened_round(open_waiting(self.study, self._distributions))

    def _opened_round(self, trial: optuna.trial.FrozenTrial | None) -> Round | None:
        if trial is None:
            return None
        found = self._round(trial)
        self._opened += 1
        self._given_out += self._examples_of(trial)
        return found

    def _round(self, trial: optuna.trial.FrozenTrial) -> Round:
        return Round(trial.number, "search", self.recipe(trial), self._ids(trial))

    def _ids(self, trial: optuna.trial.FrozenTrial) -> tuple[str, ...] | None:
        """The examples the trial is scored on; None for the whole split.

        What bounds are measured from is scored on all of it: on whatever batch, the others are compared with it.
        """
        attributes = trial.user_attrs
        if self.batches is None or self._on_all(trial):
            return None
        if "generation" in attributes:
            return tuple(self.batches.batch(attributes["generation"]))
        return tuple(self.batches.screen())

    def _on_all(self, trial: optuna.trial.FrozenTrial) -> bool:
        attributes = trial.user_attrs
        return attributes.get("origin") == RECOMMENDATION or attributes.get("label") in self._references

    def _examples_of(self, trial: optuna.trial.FrozenTrial) -> int:
        return self.plan.examples["search"] if self._each is None or self._on_all(trial) else self._each

    def _tell(self, finished: Finished) -> None:
        number = finished.round.trial
        if finished.error is None and any(self._reference(label) is None for label in self._references):
            self._held.append(finished)
            return
        held, self._held = self._held, []
        for one in held:
            self._tell(one)
        if finished.error is not None:
            tell(self.study, number, None, error=finished.error)
            label = self._trials[number].user_attrs.get("label")
            if label in self._references:
                raise JobFailed(f"{label} could not be scored, and bounds are measured from it: {finished.error}")
            self.progress.say(f"trial {number} failed: {finished.error}")
        else:
            values = objectives(finished.outcomes, self.plan.tasks, self.job.search.signal)
            beyond = violations(finished.outcomes, self.plan.tasks, self._reference)
            digest, seconds = finished.round.recipe.digest(), sum(finished.seconds.values())
            signal = self.job.search.signal
            attributes = attributes_of(digest, finished.outcomes, seconds, self.plan.tasks, signal)
            attributes |= {**bound_attributes(beyond), **cost_attributes(finished)}
            told = [values[name] for name in self.job.objectives()]
            tell(self.study, number, told, attributes=attributes, constraints=beyond)
            self._scored_here += len(finished.outcomes)
        self._count(self._trials[number])
        self.told(number)
        if self._finished == 0 and self._failed >= FAILURES_IN_A_ROW:
            raise JobFailed(f"the first {self._failed} trials all failed; the last one because {finished.error}")

    def _count(self, trial: optuna.trial.FrozenTrial) -> None:
        if trial.state == optuna.trial.TrialState.FAIL:
            self._failed += 1
        elif trial.state == optuna.trial.TrialState.COMPLETE:
            self._finished += 1
            value = sum(trial.values) / len(trial.values)
            standing = (-broken(trial), trial.user_attrs.get("examples", 0), value)
            if self._best is None or standing > self._best[:3]:
                self._best = (*standing, label_of(trial))

    def _has(self, origin: str) -> bool:
        return any(trial.user_attrs.get("origin") == origin for trial in self._trials)

    def _budget_used(self) -> float:
        """The share of the budget already given out, 1 or more when it is spent.

        One trial is kept back for the answer an engine gives at the end.
        """
        budget = self.job.search.budget
        shares = [0.0]
        if budget.trials is not None:
            shares.append(self._opened / (budget.trials - self._kept))
        if budget.examples is not None:
            whole = self.plan.examples["search"]
            each = whole if self._each is None else self._each
            room = budget.examples - self._kept * whole
            shares.append(1.0 if self._given_out + each > room else self._given_out / room)
        if budget.minutes is not None:
            shares.append(self._seconds() / (60 * budget.minutes))
        return max(shares)

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self._began

    def _standings(self) -> Standings:
        beyond, _, best, label = self._best or (0.0, 0, None, "")
        if beyond < 0:
            label += ", beyond a bound"
        under_way = 1 - (self._finished + self._failed) / max(1, self._opened)
        return Standings(
            finished=self._finished,
            failed=self._failed,
            share=min(1.0, self._budget_used() * (1 - under_way)),
            examples=self._scored_here,
            seconds=time.monotonic() - self._began,
            best=best,
            best_label=label,
        )


def recipe_of(trial: optuna.trial.FrozenTrial, space: SearchSpace) -> Recipe:
    """A trial's recipe: written out for a baseline outside the search space, from its parameters for all others."""
    written = trial.user_attrs.get("recipe")
    return Recipe.model_validate_json(written) if written else space.recipe(trial.params)


def label_of(trial: optuna.trial.FrozenTrial) -> str:
    """What people call the trial: a baseline by its name, any other by its number."""
    return str(trial.user_attrs.get("label", f"trial {trial.number}"))
