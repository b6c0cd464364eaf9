"""Put a job's rows, trials and outcomes together into what a report shows."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import optuna

from evaluators.aggregate import objectives
from evaluators.bounds import Bound
from evaluators.protocol import Outcome, Split, Task
from merging.methods import METHODS
from optimizer.bounds import broken, label_of_model
from optimizer.coordinator import label_of, recipe_of
from optimizer.cost import Cost
from optimizer.efe import DIFFERENTIATED, SCORED
from optimizer.events import events
from optimizer.evidence import Evidence
from optimizer.finish import Ending, baseline_trials
from optimizer.front import front_of
from optimizer.gradients import gradient_looks, gradient_positions
from optimizer.jobs import Job
from optimizer.ledger import CALIBRATED
from optimizer.outcomes import scored_count
from optimizer.plan import Plan
from optimizer.results import Kept, Kind, Objective, Results, Standing, TaskInfo, TrialRow
from optimizer.results import TrialState as RowState
from optimizer.spec import JobFile
from optimizer.statistics import Difference, Estimate, differences_by_task, interval, paired_difference
from optimizer.study import all_trials

Scores = dict[str, dict[str, float]]  # task, then example id

NOTES = "notes"  # of the study: sentences on what its search decided
VERSIONS = ("mergeopt", "torch", "transformers", "lm_eval", "optuna", "ray", "cmaes")


class Summary:
    """Reads everything a report needs about one job; `results()` is the whole of it."""

    def __init__(
        self,
        job: Job,
        spec: JobFile,
        plan: Plan,
        study: optuna.Study,
        evidence: Evidence,
    ) -> None:
        self._job, self._spec, self._plan, self._study = job, spec, plan, study
        self._evidence, self._tasks = evidence, plan.tasks
        self._trials = all_trials(study)

    def results(self, ending: Ending | None, state: str, seconds: float, test_openings: int) -> Results:
        """The job as it stands; `ending` is None until a winner has been chosen."""
        winner = ending.winner if ending else None
        scored = scored_count(self._evidence.database, self._job.id)
        trials = tuple(self._row(trial) for trial in self._trials)
        objectives = tuple(Objective(name) for name in self._spec.objectives())
        test = self._standings(ending, [winner, *baseline_trials(self._study)], "test") if ending else []
        return Results(
            job=self._job.name,
            state=state,
            engine=describe_engine(self._spec),
            method=describe_method(self._spec),
            space=describe_space(self._spec, self._plan.space(self._spec).distributions().count()),
            seed=self._spec.search.seed,
            objectives=objectives,
            tasks=tuple(
                TaskInfo(
                    task.name,
                    task.metric,
                    task.weight,
                    task.higher_is_better,
                    task.objective,
                    task.bound.in_words() if task.bound is not None else None,
                )
                for task in self._tasks
            ),
            splits=dict(self._plan.examples),
            trials=trials,
            select=tuple(self._standings(ending, list(ending.finalists), "select") if ending else []),
            test=tuple(test),
            winner=winner,
            optimism=self._optimism(winner),
            test_openings=test_openings,
            coefficients=self._coefficients(winner if winner is not None else self._leading()),
            budget={k: float(v) for k, v in self._spec.search.budget.model_dump().items() if v is not None},
            examples_scored=sum(trial.user_attrs.get("examples", 0) for trial in self._trials),
            seconds=seconds,
            versions={name: importlib.metadata.version(name) for name in VERSIONS},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            base=self._spec.models.base.path if self._spec.models.base else None,
            experts=tuple(self._spec.models.experts),
            signal=self._spec.search.signal,
            error=self._job.error,
            efe=efe(scored, self._gradient_examples(), self._calibration()),
            tested=scored.get("test", 0),
            notes=(
                tuple(self._study.user_attrs.get(NOTES, ()))
                + self._made_by(winner if winner is not None else self._leading())
            ),
            front=front_of(trials, objectives),
        )

    def _gradient_examples(self) -> int:
        found = gradient_looks(self._evidence.database, self._job.id)
        return found.examples if found is not None else 0

    def _calibration(self) -> int:
        """In EFE, what virtual experts were calibrated with and teachers were asked."""
        spent: int = sum(one.data["efe"] for one in events(self._evidence.database, self._job.id, CALIBRATED))
        taught = {task.name for task in self._plan.tasks if task.teacher is not None}
        asked = gradient_positions(self._evidence.database, self._job.id) if taught else ()
        return spent + SCORED * sum(self._evidence.examples[position].task in taught for position in asked)

    def _row(self, trial: optuna.trial.FrozenTrial) -> TrialRow:
        attributes = trial.user_attrs
        scored = trial.state == optuna.trial.TrialState.COMPLETE
        tasks = attributes.get("tasks", {}) if scored else {}
        return TrialRow(
            number=trial.number,
            origin=attributes.get("origin", "search"),
            label=label_of(trial),
            state=_STATES[trial.state],
            values=dict(zip(self._spec.objectives(), trial.values, strict=True)) if scored else {},
            tasks={
                task: {name: value for name, value in means.items() if value is not None}
                for task, means in tasks.items()
            },
            parameters=dict(trial.params),
            digest=attributes.get("digest", ""),
            examples=attributes.get("examples", 0),
            seconds=attributes.get("seconds", 0.0),
            error=attributes.get("error"),
            started=_iso(trial.datetime_start),
            finished=_iso(trial.datetime_complete),
            cost=Cost(**attributes["cost"]) if "cost" in attributes else None,
            beyond=broken(trial),
            standard_error=attributes.get("standard_error", {}).get(self._spec.objectives()[0]) if scored else None,
        )

    def _standings(self, ending: Ending, numbers: Sequence[int | None], split: Split) -> list[Standing]:
        """The models that were scored on the split, the winner first, compared with it example by example."""
        rng = np.random.default_rng([self._spec.search.seed, len(split)])
        scored = {n: self._evidence.outcomes(n, split) for n in dict.fromkeys(numbers) if n is not None}
        winners = scored.pop(ending.winner, None)
        if winners is None:
            return []
        rest = {number: outcomes for number, outcomes in scored.items() if outcomes is not None}
        found = [self._standing(ending.winner, "winner", winners, None, rng, split)]
        for number, outcomes in rest.items():
            kind: Kind = self._trials[number].user_attrs.get("kind", "finalist")
            found.append(self._standing(number, kind, outcomes, winners, rng, split))
        return found

    def _standing(
        self,
        number: int,
        kind: Kind,
        outcomes: list[Outcome],
        winners: list[Outcome] | None,
        rng: np.random.Generator,
        split: Split,
    ) -> Standing:
        here, best = self._by_task(outcomes), self._by_task(winners) if winners is not None else None
        trial = self._trials[number]
        return Standing(
            trial=number,
            label=label_of(trial),
            origin=trial.user_attrs.get("origin", "search"),
            kind=kind,
            objectives={
                name: interval({task: list(rows.values()) for task, rows in turned.items()}, weights, rng)
                for name, weights, turned in self._objectives(here)
            },
            tasks={task: interval({task: list(here[task].values())}, {task: 1.0}, rng) for task in here},
            difference=self._differences(best, here, rng) if best is not None else None,
            task_difference=differences_by_task(best, here, rng) if best is not None else None,
            kept=tuple(
                self._kept(task, task.bound, here, split, rng) for task in self._tasks if task.bound is not None
            ),
        )

    def _kept(self, task: Task, bound: Bound, here: Scores, split: Split, rng: np.random.Generator) -> Kept:
        own = {task.name: here[task.name]}
        if bound.of is None:
            measured = interval({task.name: list(own[task.name].values())}, {task.name: 1.0}, rng)
        else:
            of = self._by_task(self._reference(label_of_model(bound.of), split))
            difference = paired_difference(own, {task.name: of[task.name]}, {task.name: 1.0}, rng)
            measured = Estimate(difference.mean, difference.low, difference.high, difference.n)
        violation = bound.violation(measured.mean)
        ends = [bound.violation(end) > 0 for end in (measured.low, measured.high)]
        return Kept(task.name, bound.in_words(), measured, violation, surely=ends == [violation > 0] * 2)

    def _reference(self, label: str, split: Split) -> list[Outcome]:
        """What bounds are measured from; scored on every split before anything is measured."""
        number = next(trial.number for trial in self._trials if trial.user_attrs.get("label") == label)
        return self._evidence.outcomes(number, split) or []

    def _differences(self, best: Scores, other: Scores, rng: np.random.Generator) -> dict[str, Difference]:
        """The winner minus the other, per objective."""
        pairs = zip(self._objectives(best), self._objectives(other), strict=True)
        return {name: paired_difference(ours, theirs, weights, rng) for (name, weights, ours), (_, _, theirs) in pairs}

    def _by_task(self, outcomes: list[Outcome]) -> dict[str, dict[str, float]]:
        grouped = self._evidence.by_task(outcomes)
        return {task: {outcome.id: outcome.metric for outcome in rows} for task, rows in grouped.items()}

    def _objectives(self, scores: Scores) -> list[tuple[str, dict[str, float], Scores]]:
        """Each objective with its tasks' weights and scores, turned so that larger is better."""
        found = []
        for name in self._spec.objectives():
            tasks = [task for task in self._tasks if task.objective == name]
            signs = {task.name: 1.0 if task.higher_is_better else -1.0 for task in tasks}
            turned = {
                task: {example: sign * value for example, value in scores[task].items()} for task, sign in signs.items()
            }
            found.append((name, {task.name: task.weight for task in tasks}, turned))
        return found

    def _optimism(self, winner: int | None) -> float | None:
        """The winner's search score minus its test score, both by the metric, on the first objective."""
        if winner is None:
            return None
        search, test = (self._evidence.outcomes(winner, split) for split in ("search", "test"))
        if search is None or test is None or len(search) < self._plan.examples["search"]:
            return None
        name = self._spec.objectives()[0]
        return objectives(search, self._tasks)[name] - objectives(test, self._tasks)[name]

    def _leading(self) -> int | None:
        """The best trial of an unfinished job, by what the study was told."""
        scored = [trial for trial in self._trials if trial.state == optuna.trial.TrialState.COMPLETE]
        best = max(scored, key=_standing_of, default=None)
        return best.number if best is not None else None

    def _coefficients(self, number: int | None) -> dict[str, dict[str, float]]:
        if number is None:
            return {}
        recipe = recipe_of(self._trials[number], self._plan.space(self._spec))
        names = METHODS[recipe.method].coefficients(tuple(recipe.experts))
        return {group: dict(zip(names, row, strict=True)) for group, row in recipe.coefficients.items()}

    def _made_by(self, number: int | None) -> tuple[str, ...]:
        """What sets a trial apart beside its coefficients, where the search was over more."""
        if number is None or not self._spec.searches_settings():
            return ()
        recipe = recipe_of(self._trials[number], self._plan.space(self._spec))
        settings = ", ".join(f"{key} {value}" for key, value in recipe.structure.items())
        said = [f"Trial {number} is merged by `{recipe.method}`" + (f" with {settings}." if settings else ".")]
        if recipe.path is not None:
            said.append(f"Its layers, one after the other: {', '.join(one.in_words(3) for one in recipe.path)}.")
        return tuple(said)


def _standing_of(trial: optuna.trial.FrozenTrial) -> tuple[float, int, float, int]:
    """By what an unfinished search's trials are compared: bounds, then how many examples, then what was told."""
    return -broken(trial), trial.user_attrs.get("examples", 0), sum(trial.values), -trial.number


_STATES: dict[optuna.trial.TrialState, RowState] = {
    optuna.trial.TrialState.WAITING: "waiting",
    optuna.trial.TrialState.RUNNING: "running",
    optuna.trial.TrialState.COMPLETE: "complete",
    optuna.trial.TrialState.FAIL: "failed",
    optuna.trial.TrialState.PRUNED: "failed",
}


def efe(scored: Mapping[str, int], differentiated: int, calibration: int = 0) -> dict[str, int]:
    """What the search spent, by split: 1 for a scored example, 3 for one in a gradient batch.

    `calibration` is what virtual experts were calibrated with, in EFE; their examples are the gradient's.
    """
    spent = {"gradient": DIFFERENTIATED * differentiated + calibration}
    return spent | {split: SCORED * scored.get(split, 0) for split in ("search", "select")}


def describe_engine(spec: JobFile) -> str:
    """The engine the job names, and what that came to where it is another: `auto (nsga2)`."""
    named, came_to = spec.search.engine, spec.engine()
    return named if came_to == named else f"{named} ({came_to})"


def describe_method(spec: JobFile) -> str:
    """The method in a few words: `ties`, or `ties (density searched) or dare_linear`."""
    methods = spec.searched_methods()
    if methods is None:
        return spec.first_method()[0]
    shown = [one.name + (f" ({', '.join(one.ranges())} searched)" if one.ranges() else "") for one in methods.options]
    return " or ".join(shown)


def describe_space(spec: JobFile, parameters: int) -> str:
    """The space in a few words: `layerwise, attention+norms / mlp, [0, 1], 30 parameters`."""
    space = spec.space.model_dump(exclude_defaults=True)
    space.pop("granularity", None)
    low, high = spec.space.bounds
    details = [
        f"{key} {'/'.join(value) if isinstance(value, tuple | list) else value}"
        for key, value in space.items()
        if key != "bounds"
    ]
    return ", ".join([spec.space.granularity, *details, f"[{low:g}, {high:g}]", f"{parameters} parameters"])


def _iso(moment: datetime | None) -> str | None:
    """Optuna gives times without a zone, in the reader's own."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds")
