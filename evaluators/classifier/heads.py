"""The classification head of a model, read from its folder to be used on another one's body."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from evaluators.protocol import EvaluatorError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Head:
    """The tensors of a head by the names they have in the model, and what its labels are called."""

    tensors: dict[str, Tensor]
    labels: dict[str, int]
    count: int


def head_names(model: nn.Module) -> list[str]:
    """The names of a classifier's head: all that stands outside the bare model, and a pooler inside it.

    A pooler is trained for the head that reads it, and merging counts it to the module `head`.
    """
    body = f"{model.base_model_prefix}."
    names = list(model.state_dict())
    return [name for name in names if not name.startswith(body) or name.startswith(f"{body}pooler.")]


def labels_of(model: nn.Module) -> tuple[dict[str, int], int]:
    """A classifier's labels, name to number, and how many its head has."""
    config: Any = model.config
    return dict(config.label2id), int(config.num_labels)


def check_fits(head: Head, model: nn.Module) -> None:
    """Raise `EvaluatorError` where a head cannot take the place of the model's own."""
    own = head_names(model)
    if sorted(own) != sorted(head.tensors):
        raise EvaluatorError(
            f"a head can only take the place of one with the same tensors, but the merged model's are "
            f"{', '.join(own)} and the other's {', '.join(head.tensors)}. Use experts of one class."
        )


def read_head(expert: str, folder: Path) -> Head:
    """The head in an expert's folder. Raises `EvaluatorError` where it is not that of a classifier."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    try:
        config: Any = AutoConfig.from_pretrained(folder)
        build: Any = AutoModelForSequenceClassification.from_config
        with torch.device("meta"):
            model: nn.Module = build(config)
    except (OSError, ValueError) as error:
        raise EvaluatorError(
            f"`head: {expert}`: {folder} must be the folder of a text classifier that transformers can build, but: "
            f"{error}"
        ) from error
    shapes = model.state_dict()
    names = head_names(model)
    found = _tensors(expert, folder, names)
    for name in names:
        if found[name].shape != shapes[name].shape:
            raise EvaluatorError(
                f"`head: {expert}`: `{name}` in {folder} must have shape {tuple(shapes[name].shape)} for its "
                f"{config.num_labels} labels, but has {tuple(found[name].shape)}. Is its config.json another model's?"
            )
    return Head(found, *labels_of(model))


def label_id(value: Any, labels: Mapping[str, int], count: int) -> int | None:
    """The id of a label given by its name or its number, which may be written as text; None where there is none."""
    if isinstance(value, str) and value in labels:
        return labels[value]
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count
    return value if known else None


def _tensors(expert: str, folder: Path, names: list[str]) -> dict[str, Tensor]:
    try:
        home = _home(folder)
        found = {name: _tensor(folder / home[name], name) for name in names if name in home}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise EvaluatorError(f"`head: {expert}`: the weights in {folder} cannot be read: {error}.") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise EvaluatorError(
            f"`head: {expert}`: {folder} must have the tensors of its head, but lacks {', '.join(missing)}. "
            "Save the classifier with its head (`save_pretrained`), or name another expert."
        )
    return found


def _home(folder: Path) -> dict[str, str]:
    """The file of every tensor."""
    if not (folder / _SINGLE).is_file() and (folder / _INDEX).is_file():
        home: dict[str, str] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
        return home
    with safe_open(folder / _SINGLE, framework="pt") as opened:
        return dict.fromkeys(opened.keys(), _SINGLE)


def _tensor(file: Path, name: str) -> Tensor:
    with safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor
