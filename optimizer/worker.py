"""Score recipes on one resident model: what a worker process does, whoever started it."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optimizer.plan import Plan
from optimizer.spec import JobFile


@dataclass(frozen=True)
class Scored:
    """A worker's answer for one recipe: plain columns, one row per example id, or the reason there are none.

    `smooth` and `loglikelihood` hold None where an example has no such value. `seconds` and `tokens` are by stage (see
    `evaluators.meter`; `other` is what no stage claims), `model_seconds` those inside the model's forward passes.
    """

    ids: list[str]
    metric: list[float]
    smooth: list[float | None]
    loglikelihood: list[float | None]
    seconds: dict[str, float]
    tokens: dict[str, int]
    model_seconds: float
    digest: str
    error: str | None = None


class Worker:
    """Sources opened once, one resident model, one prepared evaluator; everything else arrives with the request."""

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], threads: int = 1) -> None:
        """`job` and `plan` are the JSON forms of `JobFile` and `Plan`; nothing else is read but model and task files.

        Raises `ValueError` where a source on this machine is not the one the plan was made for.
        """
        import torch

        from merging.materialize import Sources
        from optimizer.preflight import open_evaluator
        from optimizer.resident import open_resident

        torch.set_num_threads(threads)
        self._job = JobFile.model_validate(job)
        self._plan = Plan.model_validate(plan)
        self._sources = Sources(self._plan.template)
        self._sources.verify()
        self._evaluator = open_evaluator(self._job)
        self._resident = open_resident(self._job, self._plan.template, self._sources)

    def score(self, recipe: dict[str, Any], ids: Sequence[str]) -> dict[str, Any]:
        """Fill the resident model with the recipe, as far as it is not that merge already, and score the examples.

        A merge that is not finite or cannot be scored, and a model that cannot be asked at all, come back with `error`
        set; any other exception is a fault of the worker, not of the recipe, and is raised.
        """
        from evaluators.meter import Meter
        from evaluators.protocol import EvaluatorError, ScoringError
        from merging.materialize import MergeError
        from merging.recipe import Recipe

        wanted = Recipe.model_validate(recipe)
        started, meter = time.perf_counter(), Meter()
        try:
            with meter.stage("materialize"):
                self._resident.fill(wanted)
            outcomes = self._evaluator.score(self._resident.model, ids, meter)
        except (MergeError, ScoringError, EvaluatorError) as error:
            return asdict(_failed(wanted.digest(), str(error)))
        claimed = sum(meter.seconds.values())
        other = max(0.0, time.perf_counter() - started - claimed)
        return asdict(
            Scored(
                ids=[outcome.id for outcome in outcomes],
                metric=[outcome.metric for outcome in outcomes],
                smooth=[outcome.smooth for outcome in outcomes],
                loglikelihood=[outcome.loglikelihood for outcome in outcomes],
                seconds={**{str(stage): value for stage, value in meter.seconds.items()}, "other": other},
                tokens={str(stage): count for stage, count in meter.tokens.items()},
                model_seconds=meter.model_seconds,
                digest=wanted.digest(),
            )
        )


def _failed(digest: str, error: str) -> Scored:
    empty: list[Any] = []
    return Scored(empty, empty, empty, empty, {}, {}, 0.0, digest, error)
