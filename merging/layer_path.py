"""Lay a recipe's layers out along a path: some left out, some twice, some taken from one model as they are.

Frankenmerges and depth up-scaling, searched as the data-flow space of arXiv 2403.13187, section 3.2.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.groups import split_at_layer
from merging.methods import At, Method
from merging.methods.linear import LINEAR, Linear
from merging.methods.method import no_sum
from merging.recipe import Visit
from merging.step import Step

_WRITERS = re.compile(
    r"(?<!intermediate)\.(?:o_proj|out_proj|c_proj|dense|down_proj|fc2|dense_4h_to_h|wo|w2|attn_out|ff_out|out_lin|lin2)\.(?:weight|bias)$"
)


@dataclass(frozen=True)
class Laid:
    """A step of the result, and the tensor of the sources that it stands for: `origin` in its own layer.

    `visit` is the path's part that put it there, None outside of layers and without a path.
    """

    step: Step
    origin: str
    visit: Visit | None = None

    @property
    def is_merged(self) -> bool:
        """Whether it is the method's own work."""
        return self.step.method is not None and (self.visit is None or self.visit.source is None)


def laid_out(
    path: Sequence[Visit], names: Sequence[str], step_of: Callable[[str], Step], models: Mapping[str, Checkpoint]
) -> Iterator[Laid]:
    """What makes every tensor of a model whose layers follow the path, in sorted order of names.

    `names` are the tensors of the model without a path, `step_of` makes one of them, `models` are those that a visit
    may name. Raises `MergeError` where a layer is scaled and none of its tensors is known to write to the residual
    stream.
    """
    layers = layers_in(names)
    found = [Laid(step_of(name), name) for name in names if split_at_layer(name) is None]
    for number, visit in enumerate(path):
        if visit.scale != 1:
            check_writers(layers[visit.layer])
        for name in layers[visit.layer]:
            step = step_of(name)
            if visit.source is not None:
                read = partial(models[visit.source].tensor, name)
                step = Step(name, step.shape, step.dtype, None, None, None, (read,))
            if visit.scale != 1 and writes(name):
                step = _scaled(step, visit.scale)
            found.append(Laid(replace(step, name=renumbered(name, number)), name, visit))
    yield from sorted(found, key=lambda one: one.step.name)


def layers_in(names: Collection[str]) -> dict[int, list[str]]:
    """The tensors of each layer. Raises `MergeError` where there is not one stack of layers, each like the first."""
    stacks: dict[str, None] = {}
    found: dict[int, list[str]] = {}
    shape: dict[int, list[str]] = {}
    for name in names:
        split = split_at_layer(name)
        if split is not None:
            before, number, after = split
            stacks[before] = None
            found.setdefault(number, []).append(name)
            shape.setdefault(number, []).append(after)
    if len(stacks) != 1:
        raise MergeError(f"a path needs one stack of layers, but the model has {len(stacks)}: {', '.join(stacks)}.")
    for number, tensors in shape.items():
        if sorted(tensors) != sorted(shape[min(shape)]):
            raise MergeError(
                f"a path needs layers that are built alike, but layer {number} has other tensors than layer "
                f"{min(shape)}; leave `path` out."
            )
    return dict(sorted(found.items()))


def renumbered(name: str, number: int) -> str:
    """The same tensor of another layer; a tensor outside of layers stays."""
    split = split_at_layer(name)
    return name if split is None else f"{split[0]}{number}{split[2]}"


def writes(name: str) -> bool:
    """Whether a tensor inside a layer writes to the residual stream, told from its name."""
    return split_at_layer(name) is not None and _WRITERS.search(name) is not None


def check_writers(names: Sequence[str]) -> None:
    """Raise `MergeError` where none of a layer's tensors is known to write to the residual stream."""
    if not any(map(writes, names)):
        raise MergeError(
            f"a layer's scale multiplies what it adds to the residual stream, but none of {', '.join(names[:4])} ... "
            "is known to; leave the scale at 1."
        )


def _scaled(step: Step, scale: float) -> Step:
    if step.method is None:
        at = At(step.name, ("layer",), (scale,), Linear(normalize=False))
        return replace(step, method=LINEAR, at=at)
    return replace(step, method=_times(step.method, scale))


def _times(method: Method, scale: float) -> Method:
    def combine(base: Tensor | None, directions: Sequence[Tensor], at: At) -> Tensor:  # type: ignore[type-arg]
        return torch.mul(method.combine(base, directions, at), scale)

    return replace(method, combine=combine, weighted_sum=no_sum)
