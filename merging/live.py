"""Keep a live model at the recipe of the moment, writing only what changed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from merging.check import check_recipe
from merging.groups import group_of
from merging.kept_directions import Directions, KeptDirections
from merging.materialize import Making
from merging.recipe import Recipe
from merging.resident import make_into, placed
from merging.sources import Sources


class LiveMerge:
    """A model whose parameters are filled with one merge after the other of the same sources.

    After `fill(recipe)` the parameters have the bits that a fresh `materialize(recipe)` copied into them would leave:
    every tensor is made from the sources, never from the merge before. Groups whose coefficients stayed are left as
    they are. A model on a GPU gets its tensors from the CPU, where they are merged.
    """

    def __init__(self, model: nn.Module, sources: Sources, kept: KeptDirections | None = None) -> None:
        """`kept` keeps directions between recipes of one structure; they are made anew each time where it is None.

        Raises `MergeError` where the sources' tensors do not fit the model (see `merging.resident.Places`).
        """
        self._model = model
        self._sources = sources
        self._kept = kept
        self._recipe: Recipe | None = None
        reference = sources.reference
        self._targets = placed(model, {name: reference.shapes[name] for name in reference.names})
        self._groups = {name: group_of(name).name for name in self._targets}

    @property
    def model(self) -> nn.Module:
        """The model that is filled."""
        return self._model

    @property
    def sources(self) -> Sources:
        """What it is filled from."""
        return self._sources

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The parameter or buffer that each tensor of the sources is written to; each of them once."""
        return self._targets

    def directions(self, recipe: Recipe) -> Directions | None:
        """The recipe's directions where they are kept (see `KeptDirections.of`)."""
        return self._kept.of(recipe) if self._kept is not None else None

    @torch.no_grad()
    def fill(self, recipe: Recipe) -> None:
        """Make the model this merge. Raises `MergeError` as `materialize` does.

        The model is then no merge at all, and the next call writes everything.
        """
        before, self._recipe = self._recipe, None
        check_recipe(recipe, self._sources.groups)
        changed = changed_groups(before, recipe)
        names = [name for name, group in self._groups.items() if changed is None or group in changed]
        self._write(recipe, names, self.directions(recipe))
        self._recipe = recipe

    def _write(self, recipe: Recipe, names: list[str], kept: Directions | None) -> None:
        making = Making(recipe, self._sources)
        for name in names:
            step = making.step(name)
            make_into(self._targets[name], step, kept(name) if kept is not None and step.method is not None else None)


def changed_groups(before: Recipe | None, now: Recipe) -> set[str] | None:
    """The groups whose rows differ; None where anything else does too, so that all have to be written."""
    if before is None or before.model_copy(update={"coefficients": now.coefficients}) != now:
        return None
    if list(before.experts) != list(now.experts):  # equal mappings may differ in order, and order adds up differently
        return None
    return {group for group, row in now.coefficients.items() if before.coefficients.get(group) != row}
