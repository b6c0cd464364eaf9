"""Turn a recipe into weights, one tensor at a time."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from merging.check import check_method, check_recipe
from merging.errors import MergeError
from merging.frozen import Frozen
from merging.groups import group_of, is_merged
from merging.layer_path import Laid, laid_out
from merging.methods import METHODS, At
from merging.recipe import Recipe
from merging.sources import Sources
from merging.step import Step

__all__ = ["MergeError", "Sources", "check_method", "check_recipe", "materialize", "merged_dtypes", "place", "steps"]


def materialize(recipe: Recipe, sources: Sources) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the merged model by name, in sorted order, new ones that may be written to.

    Raises `MergeError` where the recipe does not fit method, groups or sources, or a tensor is not finite.
    """
    for step in steps(recipe, sources):
        yield step.name, step.made()


def steps(recipe: Recipe, sources: Sources) -> list[Step]:
    """What makes every tensor of the merged model, in sorted order: the one place that says what a recipe means.

    Arithmetic is in float32 and each tensor is cast once, to `recipe.dtype` or to the dtype it has in the
    base (in the first expert where there is no base). Tensors that are not merged are taken from there and cast
    likewise, those of whole numbers or booleans unchanged. Raises `MergeError` where the recipe does not fit method,
    groups or sources.
    """
    return [laid.step for laid in laid_steps(recipe, sources)]


def laid_steps(recipe: Recipe, sources: Sources) -> list[Laid]:
    """The steps, each with the tensor of the models that it stands for: another one where layers follow a path."""
    check_recipe(recipe, sources.groups)
    structure = check_method(recipe)
    dtypes, names = merged_dtypes(recipe, sources), sources.reference_of(recipe).names

    def made(name: str) -> Step:
        return step_of(recipe, sources, name, structure, dtypes[name])

    if recipe.path is None:
        return [Laid(made(name), name) for name in names]
    base, experts = sources.chosen(recipe)
    models = {**({"base": base} if base is not None else {}), **experts}
    return list(laid_out(recipe.path, names, made, models))


def step_of(recipe: Recipe, sources: Sources, name: str, structure: Frozen, dtype: torch.dtype) -> Step:
    """One of `steps`, of a recipe that is checked; `structure` are its settings."""
    reference = sources.reference_of(recipe)
    shape = reference.shapes[name]
    if not reference.is_float(name) or not is_merged(name, recipe.unmerged):
        return Step(name, shape, dtype, None, None, None, (partial(reference.tensor, name),))
    base, experts = sources.chosen(recipe)
    return Step(
        name=name,
        shape=shape,
        dtype=dtype,
        method=METHODS[recipe.method],
        at=place(recipe, sources, name, structure),
        base=partial(base.tensor, name) if base is not None else None,
        tuned=tuple(partial(expert.tensor, name) for expert in experts.values()),
    )


def merged_dtypes(recipe: Recipe, sources: Sources) -> dict[str, torch.dtype]:
    """The dtype of every merged tensor, known before any is made."""
    reference = sources.reference_of(recipe)
    return {
        name: getattr(torch, recipe.dtype if recipe.dtype and reference.is_float(name) else reference.dtypes[name])
        for name in reference.names
    }


def place(recipe: Recipe, sources: Sources, name: str, structure: Frozen | None = None) -> At[Any]:
    """What the method is told about one tensor: its row, the checked settings, what it asked about whole models.

    `structure`: the settings where they have been checked already.
    """
    structure = structure or check_method(recipe)
    group = group_of(name)
    return At(
        tensor=name,
        experts=tuple(recipe.experts),
        row=recipe.coefficients[group.name],
        structure=structure,
        seed=recipe.seed,
        survey=sources.survey(recipe, structure),
        depth=sources.depth(group),
    )
