"""Workers that hold no model, and pools of them: what is tested is where they run, and what becomes of their units."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from merging.recipe import Recipe, Source
from optimizer.cluster import Patience, RayPool
from optimizer.node_sources import open_sources
from optimizer.plan import Needs, Plan
from optimizer.pool import Answer, Unit
from optimizer.spec import Workers

LIMIT = 120.0  # seconds in which anything that is to happen has happened, on a busy machine


class Clerk:
    """Answers with its node and process, once the file that a unit names in `until` is there."""

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], threads: int) -> None:
        self._job, self._plan, self._threads = job, plan, threads

    def prepare(self) -> None:
        time.sleep(self._job.get("prepare", 0))

    def score(self, recipe: dict[str, Any], ids: Sequence[str]) -> dict[str, Any]:
        import ray

        if "began" in recipe:
            Path(recipe["began"]).touch()
        while "until" in recipe and not Path(recipe["until"]).exists():
            time.sleep(0.05)
        return {"ids": list(ids), "node": ray.get_runtime_context().get_node_id(), "process": os.getpid()}


class Reader(Clerk):
    """Opens its plan's models as a worker does."""

    def prepare(self) -> None:
        open_sources(Plan.model_validate(self._plan).template)


class SlowReader(Reader):
    """Takes long to write down the hashes of what it has read, and says so: another would read in the meantime."""

    def prepare(self) -> None:
        def heard(event: str, arguments: Any) -> None:
            if event == "os.rename" and str(arguments[1]).endswith("hashes.json"):
                with open(os.environ["REMEMBERED"], "a") as log:
                    log.write("hashes.json\n")
                time.sleep(3)

        sys.addaudithook(heard)
        super().prepare()


def plan_of(memory: int = 1, **experts: Source) -> dict[str, Any]:
    """A plan of which a pool reads the need of a worker, and `Reader` the models."""
    template = Recipe(
        method="linear",
        base=None,
        experts=experts or {"north": Source(path="/nowhere")},
        coefficients={},
        structure={},
        seed=0,
        dtype=None,
    )
    needs = Needs(model_bytes=1, worker_memory_bytes=memory, total_memory_bytes=memory, disk_bytes=1)
    plan = Plan(
        template=template,
        groups=(),
        coefficient_names=tuple(template.experts),
        baselines=(),
        start=None,
        tasks=(),
        examples={},
        needs=needs,
    )
    return plan.model_dump(mode="json")


def pool_of(
    count: int,
    *,
    memory: int = 1,
    plan: dict[str, Any] | None = None,
    job: dict[str, Any] | None = None,
    worker: Any = Clerk,
    patience: Patience | None = None,
    **workers: Any,
) -> RayPool:
    """Workers on the cluster that this process is connected to."""
    asked = Workers.model_validate({"count": count, **workers})
    return RayPool(
        job or {}, plan or plan_of(memory), asked, local=False, worker=worker, patience=patience or Patience()
    )


def until(pool: RayPool, reached: Callable[[list[Answer]], Any], limit: float = LIMIT) -> list[Answer]:
    """Wait on the pool as a coordinator does, until something is so of the answers there are by then."""
    answers: list[Answer] = []
    deadline = time.monotonic() + limit
    while not reached(answers):
        assert time.monotonic() < deadline, f"not within {limit:g} s; answers so far: {answers}"
        answers += pool.wait(0.5)
    return answers


def still(pool: RayPool, seconds: float) -> list[Answer]:
    """What the pool answers in so many seconds."""
    answers: list[Answer] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answers += pool.wait(0.5)
    return answers


def unit(key: str, **recipe: Any) -> Unit:
    """A unit for `Clerk`."""
    return Unit(key, {name: str(value) for name, value in recipe.items()}, ("one", "two"))
