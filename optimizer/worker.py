"""Score or differentiate recipes on one resident model: what a worker process does, whoever started it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.plan import Plan
from optimizer.spec import JobFile

if TYPE_CHECKING:
    from evaluators.meter import Meter
    from evaluators.protocol import Evaluator
    from merging.sources import Sources
    from optimizer.resident import Resident


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


@dataclass(frozen=True)
class Differentiated:
    """A worker's answer where a gradient was asked for: plain columns, or the reason there are none.

    `losses` are the examples' own, in nats and unscaled. `rows` is the gradient of the scaled sum (see
    `evaluators.twins.Differentiable`): for every group one number per coefficient. The rest is as in `Scored`;
    `model_seconds` count forward and backward passes and the products with the directions.
    """

    ids: list[str]
    losses: list[float]
    rows: dict[str, list[float]]
    seconds: dict[str, float]
    tokens: dict[str, int]
    model_seconds: float
    digest: str
    error: str | None = None


class Worker:
    """Sources opened once, one resident model, one prepared evaluator; everything else arrives with the request.

    A new worker is light, so that it can wait for a node; `prepare` opens what it works with, and so does the first
    request to a worker that was not prepared.
    """

    def __init__(self, job: dict[str, Any], plan: dict[str, Any], threads: int = 1) -> None:
        """`job` and `plan` are the JSON forms of `JobFile` and `Plan`; nothing but model and task files is read."""
        self._job = JobFile.model_validate(job)
        self._plan = Plan.model_validate(plan)
        self._threads = threads

    def prepare(self) -> None:
        """Open models and tasks. Raises `ValueError` where a source on this node is not the one of the plan."""
        import torch

        torch.set_num_threads(self._threads)
        _ = self._sources, self._evaluator, self._resident

    @cached_property
    def _sources(self) -> "Sources":
        from optimizer.node_sources import open_sources

        return open_sources(self._plan.template)

    @cached_property
    def _evaluator(self) -> "Evaluator":
        from optimizer.preflight import open_evaluator

        return open_evaluator(self._job)

    @cached_property
    def _resident(self) -> "Resident":
        from optimizer.resident import open_resident

        return open_resident(self._job, self._plan.template, self._sources)

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
        return asdict(
            Scored(
                ids=[outcome.id for outcome in outcomes],
                metric=[outcome.metric for outcome in outcomes],
                smooth=[outcome.smooth for outcome in outcomes],
                loglikelihood=[outcome.loglikelihood for outcome in outcomes],
                digest=wanted.digest(),
                **_spent(meter, started),
            )
        )

    def gradient(self, recipe: dict[str, Any], ids: Sequence[str], scales: Mapping[str, float]) -> dict[str, Any]:
        """The gradient, by the recipe's coefficients, of the sum over tasks of `scales` times the task's mean loss.

        The answer is a `Differentiated` as plain data. A method that is not linear, an engine or task without
        gradients, and a merge that is not finite come back with `error` set, as in `score`.
        """
        from evaluators.meter import Meter
        from evaluators.protocol import EvaluatorError, ScoringError
        from evaluators.twins import differentiate
        from merging.coefficient_gradient import CoefficientGradient
        from merging.materialize import MergeError
        from merging.recipe import Recipe
        from optimizer.calibration import teach
        from optimizer.resident import InTorch

        wanted = Recipe.model_validate(recipe)
        started, meter = time.perf_counter(), Meter()
        if not isinstance(self._resident, InTorch):
            reason = f"a gradient needs `workers.engine: torch`, but it is {self._job.workers.engine}; set it to torch."
            return asdict(_no_gradient(wanted.digest(), reason))
        try:
            teach(self._plan.template, self._job.workers.dtype, self._resident.live, self._evaluator, ids, meter)
            with meter.stage("materialize"):
                self._resident.fill(wanted)
            with CoefficientGradient(self._resident.live, wanted) as slopes:
                losses = differentiate(self._evaluator, self._resident.model, ids, scales, meter)
            rows = slopes.rows()
        except (MergeError, ScoringError, EvaluatorError) as error:
            return asdict(_no_gradient(wanted.digest(), str(error)))
        return asdict(
            Differentiated(
                ids=list(ids),
                losses=losses,
                rows={group: list(row) for group, row in rows.items()},
                digest=wanted.digest(),
                **_spent(meter, started),
            )
        )

    def statistics(self, ids: Sequence[str], kind: Any, expert: str, folder: str) -> dict[str, Any]:
        """Collect an expert's statistics on these examples, into a file below `folder` (`optimizer.calibration`).

        The answer is as plain as the others: `file`, `seconds`, `tokens`, `model_seconds`, `error`.
        """
        from evaluators.meter import Meter
        from evaluators.protocol import EvaluatorError, ScoringError
        from merging.materialize import MergeError
        from optimizer.calibration import collect_statistics
        from optimizer.resident import InTorch

        started, meter = time.perf_counter(), Meter()
        file, error = "", None
        try:
            if not isinstance(self._resident, InTorch):
                raise MergeError("statistics need `workers.engine: torch`; set it to torch.")
            live, template = self._resident.live, self._plan.template
            file = str(collect_statistics(kind, expert, template, live, self._evaluator, ids, Path(folder), meter))
        except (MergeError, ScoringError, EvaluatorError) as failed:
            error = str(failed)
        return {"file": file, "error": error, **_spent(meter, started)}


def _spent(meter: "Meter", started: float) -> dict[str, Any]:
    """The columns on what an answer cost; `started` by the clock `time.perf_counter`."""
    other = max(0.0, time.perf_counter() - started - sum(meter.seconds.values()))
    return {
        "seconds": {**{str(stage): value for stage, value in meter.seconds.items()}, "other": other},
        "tokens": {str(stage): count for stage, count in meter.tokens.items()},
        "model_seconds": meter.model_seconds,
    }


def _failed(digest: str, error: str) -> Scored:
    empty: list[Any] = []
    return Scored(empty, empty, empty, empty, {}, {}, 0.0, digest, error)


def _no_gradient(digest: str, error: str) -> Differentiated:
    return Differentiated([], [], {}, {}, {}, 0.0, digest, error)
