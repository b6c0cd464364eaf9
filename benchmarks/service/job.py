"""A job of a stated size in a database, with no models behind it, and its coordinator over a simulated pool."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import Engine

from evaluators.protocol import Task
from merging.groups import Group
from merging.recipe import Recipe, Source
from optimizer.coordinator import Coordinator
from optimizer.database import open_database
from optimizer.engines import ENGINES
from optimizer.evidence import Evidence
from optimizer.examples import LedgerEntry, read_ledger
from optimizer.fence import fence
from optimizer.jobs import Job, claim, create_job, release
from optimizer.owners import new_owner
from optimizer.plan import Needs, Plan, baselines
from optimizer.pool import Pool
from optimizer.progress import Standings
from optimizer.scorer import Scorer
from optimizer.spec import JobFile
from optimizer.study import open_storage, open_study
from search_spaces.spec import bind

EXPERTS = ("north", "south")
TASKS = ("north_task", "south_task")
MODULES = ("attention", "mlp")


def nothing() -> None:
    """A check that finds nothing to say."""


def job_file(engine: str, trials: int, seed: int = 0, name: str = "service", **changes: Any) -> JobFile:
    """A layerwise search; `changes` replace top-level keys of the job file."""
    content: dict[str, Any] = {
        "name": name,
        "models": {"base": "base", "experts": {name: name for name in EXPERTS}},
        "space": {"granularity": "layerwise"},
        "evaluate": {"tasks": list(TASKS)},
        "search": {"engine": engine, "budget": {"trials": trials}, "seed": seed},
    }
    return JobFile.model_validate(content | changes)


def plan_of(job: JobFile, parameters: int, examples: int) -> Plan:
    """What preflight would have made of the job: a model with as many layers as the parameters ask for.

    `parameters` is a multiple of the number of experts, `examples` the size of each split.
    """
    layers, left = divmod(parameters, len(EXPERTS))
    if left or layers < 2:
        raise ValueError(f"parameters must be a multiple of {len(EXPERTS)}, 4 or more, but are {parameters}.")
    groups = [Group(layer, module) for layer in range(layers - 1) for module in MODULES] + [Group(None, "head")]
    tasks = tuple(Task(name, "acc", True, weight=1.0, objective=job.objectives()[0]) for name in TASKS)
    return plan_over(job, groups, tasks, examples)


def plan_over(job: JobFile, groups: Sequence[Group], tasks: tuple[Task, ...], examples: int) -> Plan:
    """What preflight would have made of the job, had there been models with these groups."""
    method, structure = job.first_method()
    template = Recipe(
        method=method,
        base=Source(path="base", fingerprint="b"),
        experts={name: Source(path=name, fingerprint=name) for name in EXPERTS},
        coefficients={},
        structure=structure,
    )
    space = bind(job.space, template, groups, EXPERTS, methods=job.searched_methods())
    found = baselines(job, template, groups, space)
    return Plan(
        template=template,
        groups=tuple((group.layer, group.module) for group in groups),
        coefficient_names=EXPERTS,
        baselines=tuple(found),
        start=next(one.parameters for one in found if one.label == "uniform average"),
        tasks=tasks,
        examples=dict.fromkeys(("search", "select", "test"), examples),
        needs=Needs(model_bytes=1, worker_memory_bytes=1, total_memory_bytes=1, disk_bytes=1),
    )


def ledger_of(plan: Plan) -> list[LedgerEntry]:
    """Examples for every split of the plan, each task's share."""
    return [
        LedgerEntry(f"{task.name}:{split}{number}", task.name, split)
        for task in plan.tasks
        for split, count in plan.examples.items()
        for number in range(count // len(plan.tasks))
    ]


@dataclass
class SimulatedJob:
    """One submitted job."""

    url: str
    file: JobFile
    parameters: int = 32
    examples: int = 200
    plan: Plan = field(init=False)
    database: Engine = field(init=False)
    id: int = field(init=False)

    def __post_init__(self) -> None:
        self.plan = plan_of(self.file, self.parameters, self.examples)
        self.database = open_database(self.url)
        spec, plan = self.file.model_dump(mode="json"), self.plan.model_dump(mode="json")
        self.id = create_job(self.database, self.file.name, spec, plan, str(Path()), "nobody", ledger_of(self.plan)).id

    def study(self, storage: RDBStorage) -> optuna.Study:
        """A fresh look at the job's study, as a process that starts would have it."""
        return open_study(storage, self.file.name, self.file.objectives())

    def attempt(self, pool: Pool, workers: int, check: Callable[[], None] = nothing) -> "Attempt":
        """Claim the job as a process that starts would. `check` is the scorer's: it may end the search."""
        return Attempt(self, claim(self.database, self.id, new_owner(), 3600.0), pool, workers, check)


class Attempt:
    """One process's hold on a job, up to where its search begins."""

    def __init__(self, job: SimulatedJob, held: Job, pool: Pool, workers: int, check: Callable[[], None]) -> None:
        self._job, self._held, file = job, held, job.file
        self._storage = open_storage(job.url)
        fence(self._storage.engine, held.id, held.attempt)
        self.study = job.study(self._storage)
        self.evidence = Evidence(job.database, held.id, held.attempt, read_ledger(job.database, held.id))
        self.engine = ENGINES[file.search.engine](
            self.study,
            job.plan.space(file).distributions(),
            seed=file.search.seed,
            workers=workers,
            start=job.plan.start,
        )
        self.scorer = Scorer(pool, self.evidence.ids, self.evidence.record, check)
        self.coordinator = Coordinator(
            job=file,
            plan=job.plan,
            study=self.study,
            engine=self.engine,
            scorer=self.scorer,
            progress=Silent(),
            recorded=lambda trial: self.evidence.outcomes(trial, "search"),
        )

    def end(self) -> None:
        """Give the job back for the next attempt."""
        release(self._job.database, self._held.id, self._held.attempt)
        self._storage.engine.dispose()


@dataclass
class Silent:
    """A `Progress` that nobody looks at; `standings` are the last it heard."""

    standings: Standings | None = None
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def search(self, standings: Standings) -> None:
        self.standings = standings
