"""Carry a job's strategy: its asks become trials and rounds, what is recorded answers them.

The strategy is a program that decides from answers alone. After a crash it runs again from its beginning and hears
its old answers from the database until it comes to something that was never asked.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from evaluators.aggregate import objectives
from evaluators.protocol import SPLITS, Outcome, Split
from merging.errors import CheckpointError, MergeError
from merging.groups import Group
from merging.recipe import Recipe, Source
from optimizer.auto.asks import (
    Answer,
    Ask,
    Candidate,
    Close,
    Made,
    Note,
    Recommend,
    Score,
    Scored,
    Slope,
    Sloped,
    Virtual,
)
from optimizer.auto.closed_forms import price
from optimizer.auto.problem import FINALISTS, Arm, Problem
from optimizer.auto.shards import LEAST_OF_GRADIENT, cut, shard_scales
from optimizer.auto.strategy import search
from optimizer.auto.values import Measure
from optimizer.coordinator import label_of, recipe_of
from optimizer.efe import SCORED
from optimizer.errors import JobFailed
from optimizer.events import Event, events, log_event
from optimizer.evidence import Evidence
from optimizer.finish import Ending
from optimizer.jobs import replace_plan
from optimizer.ledger import CALIBRATED
from optimizer.plan import Plan
from optimizer.progress import Progress, Standings
from optimizer.scorer import Finished, Round, Scorer, each_of
from optimizer.spec import JobFile
from optimizer.study import all_trials, open_point, tell
from optimizer.told import attributes_of
from optimizer.virtual import STATISTICS, Calibration, make_virtual
from search_spaces.nested import Frame, frame_of

NOTES = "notes"
CANDIDATE = "candidate"  # the attribute that ties a trial to the strategy's own count
UNBOUNDED = 10**12  # EFE, where only minutes or trials end the search
# Events of the job, which tell a later attempt what this one was answered, where no row of a table does.
TIME_WAS_UP = "minutes were over"  # at which `ask`
GRADIENT_FAILED = "gradient failed"  # its `number`, the `reason`
VIRTUAL_FAILED = "virtual expert failed"  # its `name`, the `reason`


@dataclass(frozen=True)
class _Part:
    """What one worker answered of a gradient batch."""

    shard: int
    ids: tuple[str, ...]
    losses: Sequence[float]
    rows: Mapping[str, Sequence[float]]


@dataclass
class Conductor:
    """One job's search by the strategy `auto`.

    `workers` is how many rounds are worth asking for at once. Virtual experts are written below `folder`.
    `seconds_before` is the time earlier attempts spent. What was decided or failed and is no outcome is an event of
    the job, through the database of `evidence`.
    """

    job: JobFile
    plan: Plan
    study: optuna.Study
    scorer: Scorer
    evidence: Evidence
    progress: Progress
    workers: int
    seconds_before: float = 0.0
    folder: Path = Path()
    told: Callable[[int], None] = lambda _: None
    _trials: dict[int, int] = field(default_factory=dict)  # candidate to trial
    _gradients: dict[int, list[_Part]] = field(default_factory=dict)
    _no_gradient: dict[int, str] = field(default_factory=dict)  # those that failed, and why
    _rounds: dict[tuple[int, str], int] = field(default_factory=dict)
    _seconds: dict[int, float] = field(default_factory=dict)
    _met: set[int] = field(default_factory=set)  # candidates this process has come to, replayed or new
    _notes: list[str] = field(default_factory=list)
    _values: dict[int, tuple[int, float]] = field(default_factory=dict)  # trial to examples and score, so far

    def __post_init__(self) -> None:
        self._space = space = self.plan.space(self.job)
        self._frame: Frame = frame_of(space, [Group(layer, module) for layer, module in self.plan.groups])
        self._distributions = space.distributions()
        self._measure = Measure(self.plan.tasks, self.job.search.signal)
        self._began = time.monotonic()
        self._asked = self._slopes = self._spent = self._scored_here = 0
        self._replaying = True
        self._time_was_up: int | None = next((event.data["ask"] for event in self._events(TIME_WAS_UP)), None)
        self._problem = self._pose()

    def search(self) -> Ending:
        """Run the strategy to its end.

        Raises `Interrupted` as the scorer does, and `JobFailed` where nothing has a score.
        """
        self._rounds = self.evidence.rounds()
        for row in self.evidence.gradients():
            names = tuple(self.evidence.examples[position].id for position in row.positions)
            self._gradients.setdefault(row.number, []).append(_Part(row.shard, names, row.losses, row.rows))
        for event in self._events(GRADIENT_FAILED):
            self._no_gradient.setdefault(event.data["number"], event.data["reason"])
        for trial in all_trials(self.study):
            if CANDIDATE in trial.user_attrs:
                self._trials[trial.user_attrs[CANDIDATE]] = trial.number
        program = search(self._problem)
        answers: list[Answer] | None = None
        while True:
            try:
                asks = program.send(answers)  # type: ignore[arg-type]
            except StopIteration as end:
                verdict = end.value
                break
            self._asked += 1
            answers = self._answered(asks)
        if verdict.winner is None:
            raise JobFailed(f"no merge could be scored; the last one because {self._last_error()}")
        numbers = tuple(sorted(self._trials[one.number] for one in verdict.finalists))
        return Ending(numbers, self._trials[verdict.winner.number])

    def recipe(self, trial: FrozenTrial) -> Recipe:
        """The recipe of any trial of the job's study."""
        return recipe_of(trial, self._space)

    # ---- the problem

    def _pose(self) -> Problem:
        by_split: dict[Split, tuple[str, ...]] = {
            split: tuple(self.evidence.ids(split)) for split in SPLITS if split != "test"
        }
        return Problem(
            frame=self._frame,
            examples=by_split,
            arms=self._arms(),
            budget=self._budget(len(by_split["search"])),
            seed=self.job.search.seed,
            measure=self._measure,
            no_gradient=self.plan.no_gradient,
            virtual=self.plan.virtual,
            screened=self.plan.screened(self.job),
            parents={name: f"parent {name}" for name in self.plan.template.experts},
            workers=self.workers,
            finalists=self.job.search.finalists or FINALISTS,
            time_is_up=self._time_is_up,
        )

    def _arms(self) -> list[Arm]:
        """The job's baselines; where none is a point of the space (other methods, narrow bounds), one that is."""
        arms = [
            Arm(one.label, None if one.parameters is None else self._frame.vector(one.parameters))
            for one in self.plan.baselines
        ]
        if all(arm.point is None for arm in arms):
            count = len(self.plan.coefficient_names)
            uniform = self._space.express((*((1 / count,) * count), *((0.0,) * len(self.plan.virtual))))
            if uniform is not None:
                arms.append(Arm(f"uniform {self.job.first_method()[0]}", self._frame.vector(uniform)))
            else:
                arms.append(Arm("middle of the space", (self._frame.low + self._frame.high) / 2))
        return arms

    def _budget(self, whole: int) -> int:
        """In EFE: the job's examples, and what its trials would take on the whole search split."""
        budget = self.job.search.budget
        limits = [UNBOUNDED]
        limits += [budget.examples] if budget.examples is not None else []
        limits += [budget.trials * whole] if budget.trials is not None else []
        return min(limits)

    def _time_is_up(self) -> bool:
        """Also by trials: strategies count examples, jobs may count both. What was decided once stays decided."""
        budget = self.job.search.budget
        if budget.trials is not None and len(self._met) >= budget.trials:
            return True
        if self._time_was_up is not None:
            return self._asked >= self._time_was_up
        if budget.minutes is None or self._replaying or self._elapsed() < 60 * budget.minutes:
            return False
        self._time_was_up = self._asked
        self._log(TIME_WAS_UP, ask=self._asked)
        return True

    def _elapsed(self) -> float:
        return self.seconds_before + time.monotonic() - self._began

    # ---- the job's diary

    def _events(self, kind: str) -> list[Event]:
        return events(self.evidence.database, self.evidence.job_id, kind)

    def _log(self, kind: str, **data: Any) -> None:
        log_event(self.evidence.database, self.evidence.job_id, kind, data, self.evidence.attempt)

    # ---- answering

    def _answered(self, asks: Sequence[Ask]) -> list[Answer]:
        """Everything that is missing is asked of the workers at once; then all asks are answered from the record."""
        slopes: dict[int, int] = {}
        rounds: list[Round] = []
        asking = sum(isinstance(ask, Score | Slope) for ask in asks)
        for place, ask in enumerate(asks):
            if isinstance(ask, Score):
                self._spent += SCORED * len(ask.ids)
                rounds += self._missing(ask, asking)
            elif isinstance(ask, Slope):
                self._spent += ask.price
                slopes[place] = self._slopes
                rounds += self._missing_of_slope(ask, self._slopes, asking)
                self._slopes += 1
        failures = self._ask(rounds) if rounds else {}
        return [self._answer(ask, slopes.get(place), failures) for place, ask in enumerate(asks)]

    def _ask(self, rounds: list[Round]) -> dict[int, str]:
        """Have rounds answered and recorded; the reason for each trial that failed."""
        self._replaying = False
        failures: dict[int, str] = {}
        for finished in self.scorer.run(each_of(rounds)):
            self._note(finished, failures)
            self.progress.search(self._standings())
        return failures

    def _note(self, finished: Finished, failures: dict[int, str]) -> None:
        wanted = finished.round
        if finished.error is not None and wanted.scales is not None:
            if wanted.trial not in self._no_gradient:
                self._no_gradient[wanted.trial] = finished.error
                self._log(GRADIENT_FAILED, number=wanted.trial, reason=finished.error)
        elif finished.error is not None:
            failures[wanted.trial] = finished.error
        elif wanted.scales is not None:
            assert wanted.ids is not None
            part = _Part(wanted.index, wanted.ids, finished.losses, finished.rows)
            self._gradients.setdefault(wanted.trial, []).append(part)
        else:
            self._seconds[wanted.trial] = self._seconds.get(wanted.trial, 0.0) + sum(finished.seconds.values())
            self._scored_here += len(finished.outcomes)

    def _answer(self, ask: Ask, slope: int | None, failures: dict[int, str]) -> Answer:
        if isinstance(ask, Score):
            return self._scored(ask, failures)
        if isinstance(ask, Slope):
            assert slope is not None
            return self._sloped(ask, slope)
        if isinstance(ask, Virtual):
            return self._made(ask)
        if isinstance(ask, Close):
            self._close(ask)
        elif isinstance(ask, Note):
            self._notes.append(ask.text)
            if self.study.user_attrs.get(NOTES, [])[: len(self._notes)] != self._notes:
                self.study.set_user_attr(NOTES, list(self._notes))
            self.progress.say(ask.text)
        else:
            assert isinstance(ask, Recommend)
        return None

    # ---- candidates

    def _missing(self, ask: Score, asking: int) -> Iterator[Round]:
        number = self._opened(ask.candidate)
        self._met.add(ask.candidate.number)
        trial = all_trials(self.study)[number]
        if trial.state == TrialState.FAIL:
            return
        known = {one.id for one in self.evidence.outcomes(number, ask.split) or ()}
        missing = [name for name in ask.ids if name not in known]
        for ids in cut(missing, self.workers // max(1, asking)):
            index = self._rounds.get((number, ask.split), 0)
            self._rounds[number, ask.split] = index + 1
            yield Round(number, ask.split, self.recipe(trial), ids, index)

    def _opened(self, candidate: Candidate) -> int:
        """The candidate's trial, opened where it is new."""
        if candidate.number not in self._trials:
            attributes = {"origin": candidate.origin, CANDIDATE: candidate.number, **candidate.about}
            if candidate.label is not None:
                attributes["label"] = candidate.label
            baseline = next((one for one in self.plan.baselines if one.label == candidate.label), None)
            if candidate.origin == "baseline":
                attributes["kind"] = baseline.kind if baseline is not None else "baseline"
            if candidate.point is not None:
                parameters = self._frame.parameters(candidate.point)
                trial = open_point(self.study, parameters, self._distributions, attributes)
            else:
                assert baseline is not None
                trial = open_point(self.study, {}, {}, {**attributes, "recipe": baseline.recipe.model_dump_json()})
            self._trials[candidate.number] = trial.number
        return self._trials[candidate.number]

    def _scored(self, ask: Score, failures: dict[int, str]) -> Scored:
        number = self._trials[ask.candidate.number]
        trial = all_trials(self.study)[number]
        if trial.state == TrialState.FAIL:
            return Scored((), str(trial.user_attrs.get("error", "it failed")))
        error = failures.get(number)
        if error is not None:
            if trial.state == TrialState.RUNNING:
                tell(self.study, number, None, error=error)
                self.told(number)
            self.progress.say(f"trial {number} failed: {error}")
            return Scored((), error)
        known = {one.id: one for one in self.evidence.outcomes(number, ask.split) or ()}
        if ask.split == "search":
            self._values[number] = (len(known), self._measure.mean(list(known.values())))
        return Scored([known[name] for name in ask.ids])

    def _close(self, ask: Close) -> None:
        number = self._trials.get(ask.candidate.number)
        if number is None or ask.value is None:
            return
        trial = all_trials(self.study)[number]
        if trial.state != TrialState.RUNNING:
            return
        outcomes: list[Outcome] = self.evidence.outcomes(number, "search") or []
        signal = self.job.search.signal
        attributes = attributes_of(
            self.recipe(trial).digest(), outcomes, self._seconds.get(number, 0.0), self.plan.tasks, signal
        )
        value = objectives(outcomes, self.plan.tasks, signal)[self.job.objectives()[0]]
        tell(self.study, number, [value], attributes=attributes)
        self.told(number)

    def _last_error(self) -> str:
        failed = [trial for trial in all_trials(self.study) if trial.state == TrialState.FAIL]
        return str(failed[-1].user_attrs.get("error", "no reason was recorded")) if failed else "no reason was recorded"

    # ---- virtual experts

    def _made(self, ask: Virtual) -> Made:
        """Make a virtual expert, unless an earlier attempt has, or has failed to."""
        self._spent += price(ask.name, ask.examples)
        if ask.name in self.plan.made and Path(self.plan.made[ask.name].path).is_dir():
            return Made()
        failed = [event.data["reason"] for event in self._events(VIRTUAL_FAILED) if event.data["name"] == ask.name]
        if failed:
            return Made(failed[0])
        try:
            source = self._virtual(ask)
        except (MergeError, CheckpointError, OSError) as error:
            self._log(VIRTUAL_FAILED, name=ask.name, reason=str(error))
            return Made(str(error))
        self.plan = self.plan.model_copy(update={"made": {**self.plan.made, ask.name: source}})
        plan = self.plan.model_dump(mode="json")
        replace_plan(self.evidence.database, self.evidence.job_id, self.evidence.attempt, plan)
        self._space = self.plan.space(self.job)
        return Made()

    def _virtual(self, ask: Virtual) -> Source:
        """Raises `MergeError`, `CheckpointError` and `OSError` where it cannot be made."""
        files: dict[str, Path] = {}
        errors: dict[str, str] = {}
        for finished in self.scorer.run(each_of(self._statistics_rounds(ask, STATISTICS.get(ask.name)))):
            assert finished.round.statistics is not None
            expert = finished.round.statistics["expert"]
            files[expert] = Path(finished.file)
            if finished.error is not None:
                errors[expert] = finished.error
        if errors:  # only now: a round that was left under way would be taken for one of the next ask
            raise MergeError(next(errors[expert] for expert in ask.examples if expert in errors))
        if ask.examples and all(event.data["name"] != ask.name for event in self._events(CALIBRATED)):
            examples = sum(map(len, ask.examples.values()))
            self._log(CALIBRATED, name=ask.name, examples=examples, efe=price(ask.name, ask.examples))
        calibration = Calibration(ask.examples, files.__getitem__) if ask.name in STATISTICS else None
        self.progress.say(f"Making the virtual expert {ask.name}")
        return make_virtual(ask.name, self.plan.template, self.folder / "virtual", calibration)

    def _statistics_rounds(self, ask: Virtual, kind: str | None) -> list[Round]:
        if kind is None:
            return []
        folder = str((self.folder / "virtual" / "statistics").resolve())
        return [
            Round(place, "gradient", self.plan.template, ids, 0, None, {"kind": kind, "expert": name, "folder": folder})
            for place, (name, ids) in enumerate(ask.examples.items())
        ]

    # ---- gradients

    def _missing_of_slope(self, ask: Slope, number: int, asking: int) -> Iterator[Round]:
        if number in self._no_gradient:
            return
        recorded = {part.shard: part.ids for part in self._gradients.get(number, [])}
        parts = dict(enumerate(cut(ask.ids, self.workers // max(1, asking), LEAST_OF_GRADIENT)))
        if any(parts.get(shard) != ids for shard, ids in recorded.items()):  # an earlier version cut it otherwise
            known = {name for ids in recorded.values() for name in ids}
            missing = tuple(name for name in ask.ids if name not in known)
            parts = {max(recorded) + 1: missing} if missing else {}
        recipe = self._slope_recipe(ask)
        for shard, ids in parts.items():
            if shard not in recorded:
                yield Round(number, "gradient", recipe, ids, shard, shard_scales(ids, ask.ids, ask.scales))

    def _sloped(self, ask: Slope, number: int) -> Sloped:
        if number in self._no_gradient:
            return Sloped(self._frame.low * 0.0, (), self._no_gradient[number])
        losses: dict[str, float] = {}
        total = self._frame.low * 0.0
        joined = [name for name in self._slope_recipe(ask).experts if name in self._space.virtual]
        names = (*self.plan.coefficient_names, *joined)
        for part in sorted(self._gradients[number], key=lambda part: part.shard):
            total = total + self._frame.gradient(_full(part.rows, names, self._frame.coefficients))
            losses.update(zip(part.ids, part.losses, strict=True))
        return Sloped(total, [losses[name] for name in ask.ids])

    def _slope_recipe(self, ask: Slope) -> Recipe:
        """The point, with every virtual expert that may move or has a say.

        It follows from the ask, so that rows which an earlier attempt recorded are known to be of these experts.
        """
        parameters = self._frame.parameters(ask.point)
        said = self._space.recipe(parameters).experts
        virtual = {
            name: source if name in ask.joined or name in said else None for name, source in self._space.virtual.items()
        }
        return replace(self._space, virtual=virtual).recipe(parameters, whole=True)

    # ---- telling people

    def _standings(self) -> Standings:
        trials = all_trials(self.study)
        best = max(self._values, key=lambda number: self._values[number], default=None)
        return Standings(
            finished=len(self._values),
            failed=sum(one.state == TrialState.FAIL for one in trials),
            share=min(1.0, self._spent / self._problem.budget),
            examples=self._scored_here,
            seconds=time.monotonic() - self._began,
            best=None if best is None else self._values[best][1],
            best_label="" if best is None else f"{label_of(trials[best])}, {self._values[best][0]} examples",
        )


def _full(rows: Mapping[str, Sequence[float]], names: Sequence[str], wanted: Sequence[str]) -> dict[str, list[float]]:
    """Every group's row with a number for each of the wanted coefficients: 0 for those without a name."""
    by_name = {group: dict(zip(names, row, strict=True)) for group, row in rows.items()}
    return {group: [own.get(name, 0.0) for name in wanted] for group, own in by_name.items()}
