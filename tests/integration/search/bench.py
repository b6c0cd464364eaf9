"""A search without models: a real study and database, and a pool that scores recipes by a formula."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from benchmarks.service.job import EXPERTS, plan_over
from evaluators.protocol import Task
from merging.groups import Group
from optimizer.batches import Batches, batches_of
from optimizer.coordinator import Coordinator
from optimizer.database import open_database
from optimizer.engines import ENGINES
from optimizer.evidence import Evidence
from optimizer.examples import LedgerEntry, read_ledger
from optimizer.finish import Finish
from optimizer.jobs import Job, claim, create_job, release
from optimizer.owners import new_owner
from optimizer.plan import Plan
from optimizer.pool import Answer, Unit
from optimizer.progress import PlainLines
from optimizer.requests import requeue
from optimizer.scorer import Interrupted, Scorer
from optimizer.spec import JobFile
from optimizer.study import all_trials, open_storage, open_study

GROUPS = [Group(layer, module) for layer in (0, 1) for module in ("attention", "mlp")] + [Group(None, "head")]
TASKS = ("north_task", "south_task")
PER_SPLIT = 20
TARGET = {"north": 0.7, "south": 0.4}


def job_file(**changes: Any) -> JobFile:
    """A valid job; `changes` replace its top-level keys."""
    content: dict[str, Any] = {
        "name": "bench",
        "models": {"base": "base", "experts": {name: name for name in EXPERTS}},
        "space": {"granularity": "layerwise"},
        "evaluate": {"tasks": list(TASKS)},
        "search": {"engine": "cma-es", "budget": {"trials": 40}},
    }
    return JobFile.model_validate(content | changes)


def plan_of(job: JobFile) -> Plan:
    """What preflight would have made of the job, had there been models."""
    return plan_over(job, GROUPS, _tasks(job), PER_SPLIT * len(TASKS))


def _tasks(job: JobFile) -> tuple[Task, ...]:
    return tuple(task.as_task(task.task, "acc", True) for spec in job.evaluate for task in spec.tasks)


def formula(recipe: dict[str, Any], example: str) -> float:
    """1 where the example's own threshold is under the recipe's quality, 0 where not: noisy, yet always the same."""
    rows = recipe["coefficients"].values()
    distance = sum(off**2 for row in rows for off in off_target(recipe["experts"], row).values())
    threshold = int(hashlib.sha256(example.encode()).hexdigest()[:8], 16) / 2**32
    return float(math.exp(-6 * distance / len(recipe["coefficients"])) > threshold)


def off_target(experts: Iterable[str], row: Sequence[float]) -> dict[str, float]:
    """How far each expert's weight is from the best one; a virtual expert is the sum of all."""
    weights = dict(zip(experts, row, strict=False))
    shared = sum(weight for name, weight in weights.items() if name not in TARGET)
    return {name: weights[name] + shared - best for name, best in TARGET.items() if name in weights}


@dataclass
class FormulaPool:
    """Workers that answer in the order they were asked. `answer` may replace what a unit comes back with."""

    workers: int = 1
    answer: Callable[[Unit], Answer | None] = lambda _: None
    asked: list[Unit] = field(default_factory=list)
    _queue: deque[Unit] = field(default_factory=deque)

    def idle(self) -> int:
        return self.workers - len(self._queue)

    def submit(self, unit: Unit) -> None:
        assert self.idle() > 0
        self.asked.append(unit)
        self._queue.append(unit)

    def wait(self, seconds: float) -> list[Answer]:  # noqa: ARG002 - a formula never takes long
        if not self._queue:
            return []
        unit = self._queue.popleft()
        return [self.answer(unit) or scored(unit)]


def scored(unit: Unit, error: str | None = None) -> Answer:
    """What a worker says of a unit."""
    ids = [] if error else list(unit.ids)
    values = [formula(unit.recipe, example) for example in ids]
    blank: list[float | None] = [None] * len(ids)
    columns = {"ids": ids, "metric": values, "smooth": blank, "loglikelihood": blank}
    cost = {"seconds": {"forward": 0.008, "other": 0.002}, "tokens": {"forward": 50}, "model_seconds": 0.006}
    return Answer(unit, {**columns, **cost, "digest": "", "error": error}, "worker-1")


@dataclass
class Bench:
    """One job in one database; every `attempt` claims it anew, as a restarted process would."""

    folder: Path
    job: JobFile = field(default_factory=job_file)

    def __post_init__(self) -> None:
        self.plan = plan_of(self.job)
        self.url = f"sqlite:///{self.folder / 'bench.db'}"
        self.database = open_database(self.url)
        ledger = [
            LedgerEntry(f"{task}:{split}{number}", task, split)
            for task in TASKS
            for split in ("search", "select", "test")
            for number in range(PER_SPLIT)
        ]
        spec, plan = self.job.model_dump(mode="json"), self.plan.model_dump(mode="json")
        create_job(self.database, self.job.name, spec, plan, str(self.folder), "tester", ledger)

    def study(self) -> optuna.Study:
        return open_study(open_storage(self.url), self.job.name, self.job.objectives())

    def attempt(self, pool: FormulaPool, check: Callable[[], None] = lambda: None) -> "Attempt":
        """Claim the job with a process of its own: new study, new engine, new evidence."""
        requeue(self.database, self.job.name)
        held = claim(self.database, self.job.name, new_owner(), 60.0)
        return Attempt(self, held, pool, check)


def _batches(bench: Bench, evidence: Evidence) -> Batches:
    searched = ((example.task, example.id) for example in evidence.examples if example.split == "search")
    return batches_of(searched, bench.job.search.batch or 0, bench.job.search.seed)


class Attempt:
    """One process's hold on the job."""

    def __init__(self, bench: Bench, held: Job, pool: FormulaPool, check: Callable[[], None]) -> None:
        self.study = bench.study()
        self.evidence = Evidence(bench.database, held.id, held.attempt, read_ledger(bench.database, held.id))
        self.scorer = Scorer(pool, self.evidence.ids, self.evidence.record, check)
        search = bench.job.search
        engine = ENGINES[search.engine](
            self.study,
            bench.plan.space(bench.job).distributions(),
            seed=search.seed,
            workers=pool.workers,
            start=bench.plan.start,
        )
        self.coordinator = Coordinator(
            job=bench.job,
            plan=bench.plan,
            study=self.study,
            engine=engine,
            scorer=self.scorer,
            progress=PlainLines(),
            recorded=lambda trial: self.evidence.outcomes(trial, "search"),
            batches=_batches(bench, self.evidence) if search.batch else None,
        )


def finish_of(bench: Bench, attempt: Attempt, open_test: Callable[[], None] = lambda: None, whole: int = 0) -> Finish:
    """The last rounds of the job, ready to run."""
    return Finish(
        study=attempt.study,
        tasks=bench.plan.tasks,
        scorer=attempt.scorer,
        recipe=lambda number: attempt.coordinator.recipe(all_trials(attempt.study)[number]),
        recorded=attempt.evidence.outcomes,
        open_test=open_test,
        progress=PlainLines(),
        count=3,
        whole=whole,
    )


def dies_after(calls: int) -> Callable[[], None]:
    """A check that stops the search, as a signal would, at its n-th call."""
    left = [calls]

    def check() -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise Interrupted("interrupt")

    return check


def torn(bench: "Bench", *calls: int) -> int:
    """Search in as many attempts as there are numbers, each stopped at its so-manieth call; how many were stopped."""
    stops = 0
    for one in calls:
        attempt = bench.attempt(FormulaPool(), dies_after(one))
        try:
            attempt.coordinator.search()
        except Interrupted:
            stops += 1
            release(bench.database, attempt.evidence.job_id, attempt.evidence.attempt)
    return stops


def told(study: optuna.Study) -> list[tuple[int, dict[str, float], list[float] | None, dict[str, float]]]:
    """What a study says of its trials: number, parameters, values, constraints."""
    return [(trial.number, trial.params, trial.values, trial.constraints) for trial in all_trials(study)]
