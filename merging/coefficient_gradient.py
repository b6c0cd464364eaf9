"""The gradient of a loss by a merge's coefficients, taken while the loss's own backward pass runs."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from merging.check import check_method
from merging.errors import MergeError
from merging.groups import group_of, is_merged
from merging.live import LiveMerge
from merging.materialize import Making
from merging.methods import METHODS
from merging.methods.linear import LINEAR, Linear
from merging.pieces import pieces
from merging.recipe import Recipe, Structure


def is_differentiable(method: str, structure: Structure) -> str | None:
    """Why there is no gradient of the coefficients, None where there is. `method` and `structure` must be checked.

    There is one where the merge is base + sum of c_k d_k with directions d_k that no coefficient changes.
    """
    known = METHODS[method]
    if known.linear:
        return None
    if known is LINEAR:
        if not Linear.model_validate(structure).normalize:
            return None
        return (
            "`linear` with `normalize: true` divides by the sum of its weights; set `normalize: false`, or use "
            f"{_linear_methods()}"
        )
    return f"`{method}` is not linear in its coefficients; use {_linear_methods()}"


class CoefficientGradient:
    """Inside, every backward pass through the live model adds to the gradient of the coefficients.

        with CoefficientGradient(live, recipe) as slopes:
            loss.backward()
        rows = slopes.rows()

    The merge of group g is base + sum_k c[g,k] d[k], so by the chain rule dL/dc[g,k] is the sum over the group's
    tensors W of <dL/dW, d[k,W]>. A parameter's gradient is used as soon as it is complete and freed at once, so a
    backward pass holds one of them at a time. Directions come from the sources or from the kept ones, as they do when
    a model is filled; products are summed in float32 within a piece of a tensor (`merging.pieces`) and in float64
    across pieces, tensors and passes. The rounding of merged weights to their dtype counts as the identity.

    A parameter tied to several tensors belongs to the one that `LiveMerge` writes. Tensors that are not merged, and
    those of whole numbers, add nothing. Not handled: buffers that differ between models (running statistics), second
    derivatives.
    """

    def __init__(self, live: LiveMerge, recipe: Recipe) -> None:
        """Raises `MergeError` where the method is not linear in its coefficients (see `is_differentiable`)."""
        self._structure = check_method(recipe)
        reason = is_differentiable(recipe.method, recipe.structure)
        if reason is not None:
            raise MergeError(f"a gradient needs a merge that is linear in its coefficients, but {reason}.")
        self._live, self._recipe = live, recipe
        self._method = METHODS[recipe.method]
        self._sums: dict[str, list[float]] = {}
        self._after = ExitStack()

    def __enter__(self) -> Self:
        """The model becomes the recipe's merge, and its merged parameters alone require gradients.

        Raises `MergeError` as `LiveMerge.fill` does, and for buffers that differ between the models.
        """
        self._live.fill(self._recipe)
        self._base, self._experts = self._live.sources.chosen(self._recipe)
        self._making = Making(self._recipe, self._live.sources)
        self._kept = self._live.directions(self._recipe)
        self._sums = {group: [0.0] * len(row) for group, row in self._recipe.coefficients.items()}
        with ExitStack() as undo:
            for parameter in self._live.model.parameters():
                undo.callback(_restore, parameter, parameter.requires_grad)
                parameter.requires_grad_(False)
                parameter.grad = None
            for name, target in self._merged():
                if isinstance(target, nn.Parameter):
                    target.requires_grad_(True)
                    hooked: Any = target  # the method carries no types
                    undo.callback(hooked.register_post_accumulate_grad_hook(partial(self._take, name)).remove)
                elif any(direction.any() for direction in self._directions(name)):
                    raise MergeError(
                        f"a gradient reaches parameters only, but `{name}` is a buffer that differs between the "
                        "models; leave its module unmerged, or search without gradients."
                    )
            self._after = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after.close()

    def rows(self) -> dict[str, tuple[float, ...]]:
        """The gradient so far: a row for every group of the recipe, one number per coefficient.

        Raises `MergeError` where one is not finite.
        """
        for group, row in self._sums.items():
            if not all(map(math.isfinite, row)):
                raise MergeError(
                    f"the gradient of `{group}` must be finite, but is {row}; the loss may be too steep for the dtype "
                    "of the model: use a wider one."
                )
        return {group: tuple(row) for group, row in self._sums.items()}

    def _merged(self) -> Iterator[tuple[str, Tensor]]:
        reference = self._live.sources.reference
        for name, target in self._live.targets.items():
            if reference.is_float(name) and is_merged(name, self._recipe.unmerged):
                yield name, target

    @torch.no_grad()
    def _take(self, name: str, parameter: Tensor) -> None:
        """Called by autograd when a parameter's gradient is complete."""
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        sums = self._sums[group_of(name).name]
        for number, product in enumerate(self._products(name, gradient)):
            sums[number] += product

    def _products(self, name: str, gradient: Tensor) -> list[float]:
        """<gradient, direction> for every direction of one tensor."""
        totals = [0.0] * len(self._experts)
        own = pieces(gradient.to("cpu").contiguous())
        for piece, directions in zip(own, self._sliced_directions(name), strict=True):
            factor = piece.float()
            for number, direction in enumerate(directions):
                totals[number] += torch.dot(factor, direction).item()
        return totals

    def _sliced_directions(self, name: str) -> Iterator[Sequence[Tensor]]:
        """The same piece of each direction, one after the other; made piece by piece where the method allows it."""
        if self._kept is not None or not self._method.elementwise(self._structure):
            yield from zip(*map(pieces, self._directions(name)), strict=True)
            return
        at = self._making.place(name)
        tuned = zip(*(pieces(expert.tensor(name)) for expert in self._experts.values()), strict=True)
        if self._base is None:
            yield from (self._method.directions(None, models, at) for models in tuned)
            return
        for origin, models in zip(pieces(self._base.tensor(name)), tuned, strict=True):
            yield self._method.directions(origin, models, at)

    def _directions(self, name: str) -> list[Tensor]:
        if self._kept is not None:
            return self._kept(name)
        tuned = [expert.tensor(name) for expert in self._experts.values()]
        origin = None if self._base is None else self._base.tensor(name)
        return self._method.directions(origin, tuned, self._making.place(name))


def _restore(parameter: Tensor, required: bool) -> None:
    parameter.requires_grad_(required)
    parameter.grad = None


def _linear_methods() -> str:
    return ", ".join(f"`{name}`" for name, method in METHODS.items() if method.linear)
