"""Write a number for every tensor as mergekit does: gradients over layers, and filters by parts of names."""

import re
from collections.abc import Mapping
from typing import Any

from merging.errors import MergeError
from merging.groups import split_at_layer

Value = float | tuple[float, ...]
"""A number, or one for each layer."""


def written(values: Mapping[str, float]) -> Any:
    """A parameter's setting that gives every tensor its number: `values` by tensor, of one stack of layers.

    Layers with numbers of their own become a gradient with as many points as there are layers. Raises `MergeError`
    where a tensor is not in all layers, or no part of a name tells tensors apart.
    """
    by_template = _by_template(values)
    if len(dict.fromkeys(by_template.values())) == 1 and not any(
        isinstance(one, tuple) for one in by_template.values()
    ):
        return next(iter(by_template.values()))
    counted = {value: sum(other == value for other in by_template.values()) for value in by_template.values()}
    most = max(counted, key=lambda value: counted[value])
    left = dict(by_template)
    choices: list[dict[str, Any]] = []
    for value in counted:
        if value == most:
            continue
        while any(one == value for one in left.values()):
            word = _word(value, left)
            choices.append({"filter": word, "value": _plain(value)})
            left = {template: one for template, one in left.items() if not _picks(word, template)}
    return [*choices, {"value": _plain(most)}] if choices else _plain(most)


_NUMBER = "\0"  # stands for the number of a layer in a template


def _by_template(values: Mapping[str, float]) -> dict[str, Value]:
    stacks: dict[str, dict[int, float]] = {}
    found: dict[str, Value] = {}
    for name, value in values.items():
        parts = split_at_layer(name)
        if parts is None:
            found[name] = value
        else:
            stacks.setdefault(f"{parts[0]}{_NUMBER}{parts[2]}", {})[parts[1]] = value
    count = max((max(layers) + 1 for layers in stacks.values()), default=0)
    for template, layers in stacks.items():
        if len(dict.fromkeys(layers.values())) == 1:
            found[template] = next(iter(layers.values()))
        elif len(layers) == count:
            found[template] = tuple(layers[layer] for layer in range(count))
        else:
            raise MergeError(
                f"`{template.replace(_NUMBER, '*')}` is in {len(layers)} of {count} layers, and its coefficients "
                "change from layer to layer: mergekit's gradients need a tensor in all layers."
            )
    return found


def _word(value: Value, left: Mapping[str, Value]) -> str:
    """A part of names that picks as many templates with this value as there is, and none with another."""
    wanted = [template for template, one in left.items() if one == value]
    candidates = dict.fromkeys(word for template in wanted for word in _words(template))
    fitting = {
        word: sum(_picks(word, template) for template in wanted)
        for word in candidates
        if all(one == value for template, one in left.items() if _picks(word, template))
    }
    if not fitting:
        raise MergeError(
            f"`{wanted[0].replace(_NUMBER, '*')}` has coefficients that no filter of mergekit gives to it alone: "
            "filters are parts of names."
        )
    return max(fitting, key=lambda word: fitting[word])


def _words(template: str) -> list[str]:
    """What may pick a template: parts of its name, then longer and longer ends, then all of it."""
    pieces = [piece for piece in template.split(_NUMBER) if piece]
    parts = [
        part for piece in pieces for part in re.split(r"\.", piece) if part and part not in ("weight", "bias", "model")
    ]
    after = pieces[-1].strip(".").split(".")
    ends = [".".join(after[start:]) for start in range(len(after) - 1, -1, -1)]
    return [*parts, *ends, *([template] if _NUMBER not in template else [])]


def _picks(word: str, template: str) -> bool:
    return any(word in piece for piece in template.split(_NUMBER))


def _plain(value: Value) -> float | list[float]:
    return list(value) if isinstance(value, tuple) else value
