"""Build the model whose parameters every trial overwrites, whatever kind of model it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from optimizer.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from optimizer.spec import JobFile

TENSORS = "tensors"
CLASSES = {"causal-lm": "AutoModelForCausalLM", "sequence-classification": "AutoModelForSequenceClassification"}
_CLASS = re.compile(r"AutoModel(For\w+)?")
_FUNCTION = re.compile(r"[^:]+:[A-Za-z_]\w*")


def check_load(load: str) -> None:
    """Raise `ValueError` where `models.load` is none of the ways to build a model."""
    if load not in (TENSORS, *CLASSES) and not _CLASS.fullmatch(load) and not _FUNCTION.fullmatch(load):
        raise ValueError(
            f"must be one of {', '.join((*CLASSES, TENSORS))}, a transformers class such as "
            f"AutoModelForImageClassification, or a function of yours (`file.py:function`), but is {load!r}"
        )


def load_model(job: JobFile, folder: str) -> nn.Module:
    """The model in `folder`, on the job's device, in its compute dtype and in eval mode.

    Raises `InputError` where the user's own function gives no model.
    """
    import torch

    load, dtype = job.models.load, getattr(torch, job.workers.dtype)
    if load == TENSORS:
        model = _bare_tensors(folder)
    elif _FUNCTION.fullmatch(load):
        model = _from_function(load, folder)
    else:
        model = transformers_class(load).from_pretrained(
            folder, dtype=dtype, trust_remote_code=job.trust_remote_code, use_safetensors=True
        )
    model.to(device=torch.device(job.workers.torch_device()), dtype=dtype)
    model.eval()
    return model


def empty_model(job: JobFile, folder: str) -> nn.Module | None:
    """The same model without memory for its weights, to look at; None where only loading it tells what it is.

    Raises what the model's own code raises.
    """
    import torch
    from transformers import AutoConfig

    load = job.models.load
    if load == TENSORS or _FUNCTION.fullmatch(load):
        return None
    trust = {"trust_remote_code": job.trust_remote_code}
    build: Any = transformers_class(load).from_config
    with torch.device("meta"):
        model: nn.Module = build(AutoConfig.from_pretrained(folder, **trust), **trust)
    return model


def transformers_class(load: str) -> Any:
    """The Auto class that `models.load` names. Raises `InputError` where transformers has none of that name."""
    import transformers

    name = CLASSES.get(load, load)
    found = getattr(transformers, name, None)
    if found is None:
        raise InputError(f"`models.load`: transformers has no class {name}; check the spelling, or upgrade it.")
    return found


def _bare_tensors(folder: str) -> nn.Module:
    from merging.bare import BareTensors
    from merging.checkpoint import open_checkpoint
    from merging.recipe import Source

    return BareTensors(open_checkpoint(Source(path=folder)))


def _from_function(load: str, folder: str) -> nn.Module:
    from torch import nn

    from evaluators.own_code import function_at

    model = function_at(load)(folder)
    if not isinstance(model, nn.Module):
        raise InputError(f"`models.load`: {load} must return a torch module, but returned {type(model).__name__}.")
    return model
