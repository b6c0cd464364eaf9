"""The model that every trial is filled into: a torch module, or one inside vLLM's engine."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Protocol

from evaluators.evaluator_spec import CAUSAL_LM
from optimizer.errors import InputError
from search_spaces.path import longest

if TYPE_CHECKING:
    from torch import nn

    from evaluators.vllm.engine import VllmModel
    from merging.recipe import Recipe
    from merging.sources import Sources
    from optimizer.spec import JobFile

VLLM_VERSIONS = ((0, 28), (0, 31))
"""The versions whose calls ours were written for: from the first on, below the second."""


class Resident(Protocol):
    """A model that stays, and becomes one merge after the other."""

    @property
    def model(self) -> nn.Module:
        """What evaluators are given."""
        ...

    def fill(self, recipe: Recipe) -> None:
        """Make the model this merge, as far as it is not that already. Raises `MergeError` as `materialize` does."""
        ...


def open_resident(job: JobFile, template: Recipe, sources: Sources) -> Resident:
    """A worker's model, still without a merge; `template` is a recipe with the dtype of all to come."""
    if job.workers.engine == "vllm":
        return _InVllm(_in_vllm(job, sources.config_folder), template, sources)
    if job.space.path is not None:
        from optimizer.deepened import Deepened, deepened_model

        layers = longest(job.space.path, sources.groups)
        return Deepened(deepened_model(job, sources.config_folder, layers), sources, layers)
    return InTorch(open_model(job, sources.config_folder), sources)


def open_model(job: JobFile, folder: str) -> nn.Module:
    """The model in `folder` as the job's evaluators are given it."""
    if job.workers.engine == "vllm":
        return _in_vllm(job, folder)
    from optimizer.loading import load_model

    return load_model(job, folder)


def _in_vllm(job: JobFile, folder: str) -> VllmModel:
    from evaluators.vllm.engine import open_vllm

    workers = job.workers
    return open_vllm(
        folder, workers.vllm, gpus=workers.gpus, dtype=workers.dtype, trust_remote_code=job.trust_remote_code
    )


class InTorch:
    """A torch module whose parameters are written in place; `live` writes them."""

    def __init__(self, model: nn.Module, sources: Sources) -> None:
        from merging.kept_directions import KeptDirections
        from merging.live import LiveMerge

        self.model = model
        self.live = LiveMerge(model, sources, KeptDirections(sources))

    def fill(self, recipe: Recipe) -> None:
        """See `Resident.fill`."""
        from merging.kept_directions import KeptDirections
        from merging.live import LiveMerge
        from optimizer.node_sources import open_sources

        known = self.live.sources
        if any(name not in known.experts for name in recipe.experts):  # a virtual expert has joined
            sources = open_sources(recipe)
            self.live = LiveMerge(self.model, sources, KeptDirections(sources))
        self.live.fill(recipe)


class _InVllm:
    """A merge in mapped memory, which vLLM takes its weights from.

    The memory is filled as a torch module is, group by group; vLLM then reads all of it, because it loads whole
    checkpoints only.
    """

    def __init__(self, model: VllmModel, template: Recipe, sources: Sources) -> None:
        from merging.kept_directions import KeptDirections
        from merging.live import LiveMerge
        from merging.mapped import MappedTensors
        from merging.materialize import merged_dtypes

        self.model = model
        self._tensors = MappedTensors(sources.reference.shapes, merged_dtypes(template, sources))
        self._live = LiveMerge(self._tensors, sources, KeptDirections(sources))
        self._recipe: Recipe | None = None

    def fill(self, recipe: Recipe) -> None:
        """See `Resident.fill`."""
        from merging.live import changed_groups

        before, self._recipe = self._recipe, None
        self._live.fill(recipe)
        if changed_groups(before, recipe) != set():
            with self._tensors.folder() as folder:
                self.model.reload(folder)
        self._recipe = recipe


def check_vllm(job: JobFile, local: bool = True) -> None:
    """Whether vLLM can do what the job asks of it, and where workers are `local`, is here. Raises `InputError`."""
    if job.workers.engine != "vllm":
        return
    if job.models.load != CAUSAL_LM:
        raise InputError(
            f"`workers.engine: vllm` runs models of the kind {CAUSAL_LM}, but `models.load` is {job.models.load}; "
            "set `workers.engine: torch`."
        )
    for spec in job.evaluate:
        if spec.scores != CAUSAL_LM:
            raise InputError(
                f"`workers.engine: vllm` gives evaluators log-likelihoods and texts, but the evaluator "
                f"`{spec.evaluator}` works on the model's tensors; set `workers.engine: torch`, or take it out."
            )
    if job.workers.gpus == 0:
        raise InputError(
            "`workers.engine: vllm` needs a GPU for each worker or a part of one, but `workers.gpus` is 0; "
            "set `gpus: 1`, or `workers.engine: torch`."
        )
    if local:
        _check_installed()


def _check_installed() -> None:
    found = importlib.metadata.packages_distributions().get("vllm")  # builds for CPUs have other names
    if not found:
        raise InputError(
            "`workers.engine: vllm` needs vLLM, which is not installed: pip install 'mergeopt[vllm]', "
            "or set `workers.engine: torch`."
        )
    name, version = found[0], importlib.metadata.version(found[0])
    low, high = VLLM_VERSIONS
    if not low <= _numbers(version) < high:
        raise InputError(
            f"`workers.engine: vllm` needs vLLM from {_dotted(low)} on and below {_dotted(high)}, whose calls it was "
            f"written for, but {version} is installed: pip install 'mergeopt[vllm]', or set `workers.engine: torch`."
        )
    if "cpu" in f"{name} {version}":
        raise InputError(
            f"`workers.engine: vllm` needs vLLM for GPUs, but {name} {version} is installed; on a CPU vLLM keeps "
            "packed copies of weights, which the next merge would not reach. Set `workers.engine: torch`."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
