"""Turn a recipe into weights, one tensor at a time."""

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from merging.check import check_method, check_recipe
from merging.errors import MergeError
from merging.frozen import Frozen
from merging.groups import group_of, is_merged
from merging.methods import METHODS, At, Method
from merging.pieces import pieces
from merging.recipe import Recipe
from merging.sources import Sources

__all__ = ["MergeError", "Sources", "check_method", "check_recipe", "materialize", "merged_dtypes"]


def materialize(recipe: Recipe, sources: Sources) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the merged model by name, in sorted order: the one place where weights are made.

    Arithmetic is in float32 and each tensor is cast once, to `recipe.dtype` or to the dtype it has in the
    base (in the first expert where there is no base). Tensors that are not merged are taken from there and cast
    likewise, those of whole numbers or booleans unchanged. The tensors are new ones and may be written to. Raises
    `MergeError` where the recipe does not fit method, groups or sources, or a tensor is not finite.
    """
    check_recipe(recipe, sources.groups)
    base, experts = sources.chosen(recipe)
    reference = sources.reference_of(recipe)
    dtypes = merged_dtypes(recipe, sources)
    for name in reference.names:
        stored = reference.tensor(name)
        if not reference.is_float(name):
            yield name, stored.clone()
            continue
        out = torch.empty(stored.shape, dtype=dtypes[name])
        if not is_merged(name, recipe.unmerged):
            take_into(out, name, stored)
            yield name, out
            continue
        tuned = [expert.tensor(name) for expert in experts.values()]
        method = METHODS[recipe.method]
        merge_into(out, method, base.tensor(name) if base is not None else None, tuned, place(recipe, sources, name))
        yield name, out


def merged_dtypes(recipe: Recipe, sources: Sources) -> dict[str, torch.dtype]:
    """The dtype of every merged tensor, known before any is made."""
    reference = sources.reference_of(recipe)
    return {
        name: getattr(torch, recipe.dtype if recipe.dtype and reference.is_float(name) else reference.dtypes[name])
        for name in reference.names
    }


def place(recipe: Recipe, sources: Sources, name: str, structure: Frozen | None = None) -> At[Any]:
    """What the method is told about one tensor: its row, the checked settings, its thresholds if any.

    `structure`: the settings where they have been checked already.
    """
    structure = structure or check_method(recipe)
    density = METHODS[recipe.method].model_density(structure)
    return At(
        tensor=name,
        experts=tuple(recipe.experts),
        row=recipe.coefficients[group_of(name).name],
        structure=structure,
        seed=recipe.seed,
        thresholds=None if density is None else tuple(sources.threshold(expert, density) for expert in recipe.experts),
    )


def merge_into(
    out: Tensor,
    method: Method,
    base: Tensor | None,
    tuned: Sequence[Tensor],
    at: At[Any],
    directions: Sequence[Tensor] | None = None,
) -> None:
    """One tensor, merged and cast into `out`, in pieces that fit the cache as far as the method allows.

    `directions` are the method's own for this place, where they were kept: the bits are the same. Raises `MergeError`
    where the merged tensor is not finite; the content of `out` is then undefined.
    """
    if directions is None and method.elementwise(at.structure):
        for target, origin, models in _sliced(out, base, tuned):
            target.copy_(method.merge(origin, models, at))
            _check_finite(target, method, at)
        return
    if directions is None:
        directions = method.directions(base, tuned, at)
    if not method.combines_slices:
        out.copy_(method.combine(base, directions, at))
        _check_finite(out, method, at)
        return
    for target, origin, parts in _sliced(out, base, directions):
        target.copy_(method.combine(origin, parts, at))
        _check_finite(target, method, at)


def take_into(out: Tensor, name: str, stored: Tensor) -> None:
    """A tensor that is not merged, cast into `out`. Raises `MergeError` where it is not finite there."""
    out.copy_(stored)
    if not _is_finite(out):
        raise MergeError(
            f"`{name}` is not merged and must be finite, but holds NaN or infinity as "
            f"{str(out.dtype).removeprefix('torch.')}; use a wider dtype, and check the model for broken weights."
        )


def _sliced(
    out: Tensor, base: Tensor | None, others: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor | None, Sequence[Tensor]]]:
    """The same piece of the target, the base and each other tensor, one after the other."""
    together = [pieces(tensor) for tensor in (out, *others)]
    bases = pieces(base) if base is not None else repeat(None)
    for (target, *parts), origin in zip(zip(*together, strict=True), bases, strict=False):
        yield target, origin, parts


def _check_finite(merged: Tensor, method: Method, at: At[Any]) -> None:
    if not _is_finite(merged):
        raise MergeError(
            f"`{at.tensor}` must be finite, but `{method.name}` with coefficients {list(at.row)} gives NaN or "
            f"infinity as {str(merged.dtype).removeprefix('torch.')}; use smaller coefficients or a "
            "wider dtype, and check the models for broken weights."
        )


def _is_finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = tensor.aminmax()  # a NaN anywhere makes both NaN
    return math.isfinite(low.item()) and math.isfinite(high.item())
