"""Score recipes on one resident model: what a worker process does, whoever started it."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from optimizer.plan import Plan
from optimizer.spec import JobFile

if TYPE_CHECKING:
    from torch import nn

    from merging.recipe import Recipe


@dataclass(frozen=True)
class Scored:
    """A worker's answer for one recipe: plain columns, one row per example id, or the reason there are none.

    `smooth` and `loglikelihood` hold None where an example has no such value. `seconds` tells materialize from
    scoring.
    """

    ids: list[str]
    metric: list[float]
    smooth: list[float | None]
    loglikelihood: list[float | None]
    seconds: dict[str, float]
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

        torch.set_num_threads(threads)
        self._job = JobFile.model_validate(job)
        self._plan = Plan.model_validate(plan)
        self._sources = Sources(self._plan.template)
        self._sources.verify()
        self._evaluator = open_evaluator(self._job)
        self._model = load_model(self._job, self._sources.config_folder)
        self._resident: str | None = None

    def score(self, recipe: dict[str, Any], ids: Sequence[str]) -> dict[str, Any]:
        """Fill the resident model with the recipe, unless it already is that merge, and score the examples.

        A merge that is not finite or cannot be scored comes back with `error` set; any other exception is a fault of
        the worker, not of the recipe, and is raised.
        """
        from evaluators.protocol import ScoringError
        from merging.materialize import MergeError
        from merging.recipe import Recipe

        wanted = Recipe.model_validate(recipe)
        started = time.perf_counter()
        try:
            self._fill(wanted)
            filled = time.perf_counter()
            outcomes = self._evaluator.score(self._model, ids)
        except (MergeError, ScoringError) as error:
            return asdict(_failed(wanted.digest(), str(error)))
        return asdict(
            Scored(
                ids=[outcome.id for outcome in outcomes],
                metric=[outcome.metric for outcome in outcomes],
                smooth=[outcome.smooth for outcome in outcomes],
                loglikelihood=[outcome.loglikelihood for outcome in outcomes],
                seconds={"materialize": filled - started, "score": time.perf_counter() - filled},
                digest=wanted.digest(),
            )
        )

    def _fill(self, recipe: "Recipe") -> None:
        from merging.materialize import materialize
        from merging.resident import load_into

        if recipe.digest() == self._resident:
            return
        self._resident = None  # until the last tensor is in place, the model is no recipe at all
        load_into(self._model, materialize(recipe, self._sources))
        self._resident = recipe.digest()


def load_model(job: JobFile, folder: str) -> "nn.Module":
    """The model whose parameters every trial overwrites, on the job's device and in its compute dtype."""
    import torch
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, job.workers.dtype),
        trust_remote_code=job.trust_remote_code,
        use_safetensors=True,
    )
    model.to(torch.device(job.workers.torch_device()))
    model.eval()
    return model


def _failed(digest: str, error: str) -> Scored:
    return Scored(ids=[], metric=[], smooth=[], loglikelihood=[], seconds={}, digest=digest, error=error)
