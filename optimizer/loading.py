"""Build the model whose parameters every trial overwrites, whatever kind of model it is."""

from __future__ import annotations

import re
from pathlib import Path
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
    if load not in (TENSORS, *CLASSES) and not _CLASS.fullmatch(load) and not is_function(load):
        raise ValueError(
            f"must be one of {', '.join((*CLASSES, TENSORS))}, a transformers class such as "
            f"AutoModelForImageClassification, or a function of yours (`file.py:function`), but is {load!r}"
        )


def load_model(job: JobFile, folder: str) -> nn.Module:
    """The model in `folder`, on the job's device, in its compute dtype and in eval mode.

    Raises `InputError` where transformers has no config to build it from, or the user's own function gives no model.
    """
    import torch

    load, dtype = job.models.load, getattr(torch, job.workers.dtype)
    if load == TENSORS:
        model = _bare_tensors(folder)
    elif is_function(load):
        model = own_model(load, folder)
    else:
        check_folder(load, folder)
        model = transformers_class(load).from_pretrained(
            folder, dtype=dtype, trust_remote_code=job.trust_remote_code, use_safetensors=True
        )
    model.to(device=torch.device(job.workers.torch_device()), dtype=dtype)
    model.eval()
    return model


def is_function(load: str) -> bool:
    """Whether `models.load` names a function of the user's."""
    return _FUNCTION.fullmatch(load) is not None


def own_model(load: str, folder: str) -> nn.Module:
    """What a function of the user's makes of a folder. Raises `InputError` with its line where it fails."""
    from torch import nn

    from evaluators.own_code import cause_in, function_at
    from evaluators.protocol import EvaluatorError

    try:
        function = function_at(load)
    except EvaluatorError as error:
        raise InputError(f"`models.load`: {error}") from error
    try:
        model = function(folder)
    except (Exception, SystemExit) as error:  # the user's function may raise anything
        raise InputError(f"`models.load`: {load} failed on {folder}: {cause_in(error, function)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"`models.load`: {load} must return a torch module, but returned {type(model).__name__}.")
    return model


def empty_model(job: JobFile, folder: str) -> nn.Module:
    """The transformers model without memory for its weights, to look at. Raises what the model's own code raises."""
    import torch
    from transformers import AutoConfig

    check_folder(job.models.load, folder)
    trust = {"trust_remote_code": job.trust_remote_code}
    build: Any = transformers_class(job.models.load).from_config
    with torch.device("meta"):
        model: nn.Module = build(AutoConfig.from_pretrained(folder, **trust), **trust)
    return model


def check_folder(load: str, folder: str) -> None:
    """Raise `InputError` where transformers would not find its files in a folder that can be merged otherwise."""
    from merging.weight_files import weight_files

    instead = f"set `models.load` to `{TENSORS}` or to a function of yours (`file.py:function`)"
    if not (Path(folder) / "config.json").is_file():
        raise InputError(
            f"{folder}: `models.load: {load}` builds the model from its config.json, but there is none; give the "
            f"model's own folder, or {instead}."
        )
    stem = weight_files(Path(folder)).stem
    if stem != "model":
        raise InputError(
            f"{folder}: `models.load: {load}` reads model.safetensors, but the weights are in files called "
            f"{stem}; rename them if transformers saved them, or {instead}."
        )


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
