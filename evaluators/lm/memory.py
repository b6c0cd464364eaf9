"""How much a model can be given at once, and what happens where that was too much."""

from collections.abc import Callable
from typing import Any, TypeVar

import psutil
import torch

from evaluators.lm.slots import bytes_per_token

_Answer = TypeVar("_Answer")

_CPU_TOKENS = 4096  # more tokens in a batch make a CPU no faster
_CPU_TEXTS, _GPU_TEXTS = 128, 512
_CPU_CACHE = 2 << 30  # bytes of keys and values of one worker: a machine runs several, and none knows of the others
_LEAST_TOKENS = 64
_SHARE = 0.4  # of the memory that is free: several workers may share a device, and none knows of the others
_READ_BYTES = 128 << 20


def token_budget(config: Any, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens in one batch: what fits the free memory of a GPU; on a CPU a number that fills its cores."""
    if device.type != "cuda":
        return _CPU_TOKENS
    text = config.get_text_config()
    width = max(getattr(text, "intermediate_size", 0) or 4 * text.hidden_size, text.hidden_size)
    each = (4 * width + 12 * text.hidden_size) * dtype.itemsize  # a layer's activations, alive at the same time
    return max(_LEAST_TOKENS, min(65536, int(_SHARE * _free(device) / each)))


def text_slots(config: Any, device: torch.device, dtype: torch.dtype, longest: int) -> int:
    """How many texts of `longest` tokens can be written at a time: what their keys and values leave room for."""
    try:
        each = longest * bytes_per_token(config, dtype.itemsize)
    except (AttributeError, TypeError):  # a config with other names: only the model itself knows
        return 16
    room = _SHARE * _free(device)
    if device.type == "cuda":
        return max(1, min(_GPU_TEXTS, int(room / max(1, each))))
    return max(1, min(_CPU_TEXTS, int(min(room, _CPU_CACHE) / max(1, each))))


def most_reads(vocabulary: int, dtype: torch.dtype) -> int:
    """Places of a batch that may be read: bounds what is kept of their hidden states, not the logits."""
    return max(1024, _READ_BYTES // (dtype.itemsize * vocabulary))


def backing_off(call: Callable[[float], _Answer]) -> _Answer:
    """`call(1.0)`; where memory runs out, `call` with half the share again and again, down to a 64th."""
    share = 1.0
    while True:
        try:
            return call(share)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not _out_of_memory(error) or share <= 1 / 64:
                raise
        share /= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in text or "can't allocate memory" in text


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)
    return int(psutil.virtual_memory().available)
