"""The jobs of a storm: small searches without models, whose answers follow from recipes and examples alone."""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from merging.groups import Group
from optimizer.examples import LedgerEntry
from optimizer.jobs import Job, create_job
from optimizer.plan import Plan, baselines
from optimizer.spec import JobFile
from tests.integration.search.bench import GROUPS, TASKS, job_file, plan_of

COUNTS = {"gradient": 40, "search": 30, "select": 15, "test": 15}  # examples of each task
# Where several workers are busy, the engine of TPE hears of them in the order they end, and learns accordingly.
WORKERS = {"tpe": 1, "cma-es": 2, "random": 2, "auto": 2}


def file_of(engine: str, seed: int, trials: int) -> JobFile:
    """A search by this engine, called after it."""
    search: dict[str, Any] = {"engine": engine, "budget": {"trials": trials}, "seed": seed}
    space: dict[str, Any] = {"granularity": "layerwise"}
    if engine == "auto":
        search["budget"] = {"examples": trials * COUNTS["search"] * len(TASKS)}
        space = {"granularity": "grown", "bounds": [-0.25, 1.5]}
    return job_file(name=engine, space=space, search=search, workers={"count": WORKERS[engine]})


def budget_of(engine: str, trials: int) -> tuple[int | None, int]:
    """Trials and examples that such a job must use; `auto` may use fewer examples, in trials of its own."""
    return (None if engine == "auto" else trials), trials * COUNTS["search"] * len(TASKS)


def submit(database: Engine, engine: str, seed: int, trials: int, folder: Path) -> Job:
    """Put the job in the queue, as `mergeopt submit` does after its checks."""
    file = file_of(engine, seed, trials)
    plan = _plan(file)
    ledger = [
        LedgerEntry(f"{task}:{split}{number}", task, split)
        for task in TASKS
        for split, count in COUNTS.items()
        for number in range(count)
    ]
    spec, written = file.model_dump(mode="json"), plan.model_dump(mode="json")
    (folder / engine).mkdir()
    return create_job(database, engine, spec, written, str(folder / engine), "tester", ledger)


def _plan(file: JobFile) -> Plan:
    counts = {split: count * len(TASKS) for split, count in COUNTS.items()}
    plan = plan_of(file).model_copy(update={"examples": counts})
    groups: list[Group] = GROUPS
    found = baselines(file, plan.template, groups, plan.space(file))
    return plan.model_copy(update={"baselines": tuple(found)})
