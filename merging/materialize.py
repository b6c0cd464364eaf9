"""Turn a recipe into weights, one tensor at a time."""

from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from merging.check import check_method, check_recipe
from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.groups import group_of, is_merged
from merging.layer_path import Laid, laid_out
from merging.methods import METHODS, At
from merging.recipe import Recipe
from merging.sources import Sources
from merging.step import Step

__all__ = ["Making", "MergeError", "Sources", "check_method", "check_recipe", "materialize", "merged_dtypes", "steps"]


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
    making = Making(recipe, sources)
    names = making.reference.names
    if recipe.path is None:
        return [Laid(making.step(name), name) for name in names]
    return list(laid_out(recipe.path, names, making.step, making.models))


class Making:
    """What a recipe that is checked means, tensor by tensor; what is the same for all of them is found out once."""

    def __init__(self, recipe: Recipe, sources: Sources) -> None:
        """Raises `MergeError` where the recipe names other models than those that are opened."""
        self._recipe, self._sources = recipe, sources
        self._structure = check_method(recipe)
        self._dtypes = merged_dtypes(recipe, sources)
        self.reference = sources.reference_of(recipe)
        self._base, self._experts = sources.chosen(recipe)

    @property
    def models(self) -> dict[str, Checkpoint]:
        """The base, under that name, and the experts."""
        return {**({"base": self._base} if self._base is not None else {}), **self._experts}

    def step(self, name: str) -> Step:
        """What makes one tensor."""
        shape, dtype = self.reference.shapes[name], self._dtypes[name]
        if not self.reference.is_float(name) or not is_merged(name, self._recipe.unmerged):
            return Step(name, shape, dtype, None, None, None, (partial(self.reference.tensor, name),))
        return Step(
            name=name,
            shape=shape,
            dtype=dtype,
            method=METHODS[self._recipe.method],
            at=self.place(name),
            base=partial(self._base.tensor, name) if self._base is not None else None,
            tuned=tuple(partial(expert.tensor, name) for expert in self._experts.values()),
        )

    def place(self, name: str) -> At[Any]:
        """What the method is told about one tensor: its row, the settings, what it asked about whole models."""
        group = group_of(name)
        return At(
            tensor=name,
            experts=tuple(self._experts),
            row=self._recipe.coefficients[group.name],
            structure=self._structure,
            seed=self._recipe.seed,
            survey=self._survey,
            depth=self._sources.depth(group),
        )

    @cached_property
    def _survey(self) -> Any:
        return self._sources.survey(self._recipe, self._structure)


def merged_dtypes(recipe: Recipe, sources: Sources) -> dict[str, torch.dtype]:
    """The dtype of every merged tensor, known before any is made."""
    reference = sources.reference_of(recipe)
    return {
        name: getattr(torch, recipe.dtype if recipe.dtype and reference.is_float(name) else reference.dtypes[name])
        for name in reference.names
    }
