"""What a merge method is: directions from the models, and a way to combine them by coefficients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from merging.frozen import Frozen

if TYPE_CHECKING:
    import torch
    from torch import Tensor

S = TypeVar("S", bound=Frozen)


class NoStructure(Frozen):
    """A method without settings of its own."""


@dataclass(frozen=True)
class At(Generic[S]):
    """Where in a merge a method is called: which tensor, with which coefficients and settings.

    `experts` are the recipe's names, in its order. `thresholds` holds one magnitude per expert where the
    method asked for it (`Method.model_density`), None otherwise.
    """

    tensor: str
    experts: tuple[str, ...]
    row: tuple[float, ...]
    structure: S
    seed: int = 0
    thresholds: tuple[float, ...] | None = None

    def generator(self, expert: int) -> torch.Generator:
        """A fresh CPU generator for one expert's random mask in this tensor.

        Its seed is a hash of the recipe's seed, the expert's name and the tensor's name, so a mask depends
        neither on the order of the models nor on how a checkpoint is cut into files.
        """
        import torch

        text = "\0".join([str(self.seed), self.experts[expert], self.tensor])
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return torch.Generator().manual_seed(seed)


def one_per_expert(experts: Sequence[str]) -> tuple[str, ...]:
    """The coefficients of most methods: one weight per expert, under its name."""
    return tuple(experts)


def never(structure: Any) -> bool:  # noqa: ARG001
    """For methods that need a whole tensor, whatever their settings."""
    return False


def always(structure: Any) -> bool:  # noqa: ARG001
    """For methods that treat each entry by itself, whatever their settings."""
    return True


def no_threshold(structure: Any) -> float | None:  # noqa: ARG001
    """For methods that look at one tensor at a time."""
    return None


def any_row(row: tuple[float, ...], structure: Any) -> str | None:  # noqa: ARG001
    """For methods to which every row of finite numbers is as good."""
    return None


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    `directions(base, tuned, at)` gives what the coefficients act on, as float32 tensors that depend on
    structure and seed but never on `at.row`; `combine(base, directions, at)` gives the merged tensor in
    float32. So directions may be kept between merges that differ in coefficients only, and the result has the
    same bits. `base` is None where the recipe has none. Neither function writes to its inputs.

    `linear`: `combine` is base + sum of coefficient times direction, in the order of the experts.
    `elementwise(structure)`: `directions` may be called on any slice of the flattened tensors.
    `combines_slices`: `combine` may, with the same slice of every direction.
    `keeps_directions`: making directions takes much longer than reading them, so a search keeps them between trials.
    `model_density(structure)`: the share of each task vector, over the whole model, that `at.thresholds` must
    keep. `row_error(row, structure)`: why a row of coefficients cannot be used, None where it can.
    """

    name: str
    summary: str
    paper: str
    needs_base: bool
    linear: bool
    structure: type[Frozen]
    directions: Callable[[Tensor | None, Sequence[Tensor], At[Any]], list[Tensor]]
    combine: Callable[[Tensor | None, Sequence[Tensor], At[Any]], Tensor]
    coefficients: Callable[[Sequence[str]], tuple[str, ...]] = one_per_expert
    min_experts: int = 1
    max_experts: int | None = None
    min_models: int = 1
    elementwise: Callable[[Any], bool] = never
    combines_slices: bool = True
    keeps_directions: bool = False
    model_density: Callable[[Any], float | None] = no_threshold
    row_error: Callable[[tuple[float, ...], Any], str | None] = any_row

    def merge(self, base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> Tensor:
        """The merged tensor, float32, from tensors as they are stored (any float dtype, one shape)."""
        origin = None if base is None else base.float()
        return self.combine(origin, self.directions(origin, tuned, at), at)
