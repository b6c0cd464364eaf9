"""The strategy `auto` over a real study and database, with a pool that scores and differentiates by a formula."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimizer.auto.conductor import Conductor
from optimizer.database import open_database
from optimizer.evidence import Evidence
from optimizer.examples import LedgerEntry, read_ledger
from optimizer.jobs import claim, create_job, release
from optimizer.owners import new_owner
from optimizer.plan import baselines
from optimizer.pool import Answer, Unit
from optimizer.progress import PlainLines
from optimizer.requests import requeue
from optimizer.scorer import Scorer
from optimizer.spec import JobFile
from optimizer.virtual import Virtual
from tests.integration.search.bench import GROUPS, TASKS, Bench, FormulaPool, job_file, off_target, plan_of, scored

COUNTS = {"gradient": 160, "search": 120, "select": 60, "test": 60}  # for each task


def auto_job(**search: Any) -> JobFile:
    """A job for the strategy; `search` adds to that part of the file."""
    space = {"granularity": "grown", "bounds": [-0.25, 1.5]}
    return job_file(space=space, search={"engine": "auto", "budget": {"examples": 9000}, **search})


class AutoBench(Bench):
    """A `Bench` with gradient examples."""

    def __init__(
        self,
        folder: Path,
        job: JobFile | None = None,
        no_gradient: str | None = None,
        virtual: tuple[Virtual, ...] = (),
    ) -> None:
        self.folder, self.job = folder, job or auto_job()
        counts = {split: count * len(TASKS) for split, count in COUNTS.items()}
        plan = plan_of(self.job).model_copy(update={"examples": counts, "no_gradient": no_gradient, "virtual": virtual})
        found = baselines(self.job, plan.template, GROUPS, plan.space(self.job))
        self.plan = plan.model_copy(update={"baselines": tuple(found)})
        self.url = f"sqlite:///{folder / 'bench.db'}"
        self.database = open_database(self.url)
        ledger = [
            LedgerEntry(f"{task}:{split}{number}", task, split)
            for task in TASKS
            for split, count in COUNTS.items()
            for number in range(count)
        ]
        spec, plan = self.job.model_dump(mode="json"), self.plan.model_dump(mode="json")
        create_job(self.database, self.job.name, spec, plan, str(folder), "tester", ledger)

    def conductor(self, pool: FormulaPool, check: Callable[[], None] = lambda: None, **options: Any) -> Conductor:
        """Claim the job with a process of its own."""
        requeue(self.database, self.job.name)
        held = claim(self.database, self.job.name, new_owner(), 60.0)
        evidence = Evidence(self.database, held.id, held.attempt, read_ledger(self.database, held.id))
        return Conductor(
            job=self.job,
            plan=self.plan,
            study=self.study(),
            scorer=Scorer(pool, evidence.ids, evidence.record, check),
            evidence=evidence,
            progress=PlainLines(),
            workers=pool.workers,
            **options,
        )


def let_go(conductor: Conductor) -> None:
    """Give the job back, as a process that was stopped does."""
    evidence = conductor.evidence
    release(evidence.database, evidence.job_id, evidence.attempt)


def answer(unit: Unit) -> Answer:
    """What a worker says of a unit, scores or gradient."""
    return scored(unit) if unit.scales is None else differentiated(unit)


def differentiated(unit: Unit, error: str | None = None) -> Answer:
    """The gradient of minus the logarithm of the formula's quality: every example has the same loss."""
    assert unit.scales is not None
    coefficients = unit.recipe["coefficients"]
    names, count = list(unit.recipe["experts"]), len(coefficients)
    total = math.fsum(unit.scales[task] for task in {name.rpartition(":")[0] for name in unit.ids})
    rows = {}
    for group, row in coefficients.items():
        off = off_target(names, row)
        rows[group] = [total * 12 * off.get(name, math.fsum(off.values())) / count for name in names]
    cost = {"seconds": {"forward": 0.02}, "tokens": {"forward": 50}, "model_seconds": 0.02}
    losses = [1.0] * len(unit.ids)
    return Answer(unit, {"ids": list(unit.ids), "losses": losses, "rows": rows, **cost, "error": error}, "worker-1")


def collected(unit: Unit, error: str | None = None) -> Answer:
    """What a worker says where an expert's statistics are wanted."""
    cost = {"seconds": {"forward": 0.02}, "tokens": {"forward": 50}, "model_seconds": 0.02}
    return Answer(unit, {"file": "", **cost, "error": error}, "worker-1")


def pool_of(workers: int = 1, change: Callable[[Unit], Answer | None] = lambda _: None) -> FormulaPool:
    """A pool that answers every unit; `change` may replace an answer."""
    return FormulaPool(workers, lambda unit: change(unit) or answer(unit))
