"""How vLLM is set up on a job's workers."""

from typing import Annotated

from pydantic import Field

from evaluators.frozen import Frozen

_SHARE = 0.8  # vLLM's own is 0.92; it makes the log-probabilities of prompts beside what it has reserved


class VllmSpec(Frozen):
    """`gpu_memory_utilization` is the share of a GPU's memory one worker reserves for weights and cache; where None,
    0.8 of the part of a GPU that the worker has. `max_model_len` bounds a prompt with its answer, in tokens; where
    None it is the model's whole window, for which there must be room in the cache.
    """

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    max_model_len: Annotated[int, Field(ge=16, strict=True)] | None = None

    def share(self, gpus: float) -> float:
        """The share that one worker with so many GPUs reserves of each."""
        if self.gpu_memory_utilization is not None:
            return self.gpu_memory_utilization
        return _SHARE * min(gpus, 1.0)
