"""Keep a live model at the recipe of the moment where recipes have layers of their own number and order."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from merging.errors import MergeError
from merging.kept_directions import KeptDirections
from merging.layer_path import Laid, check_writers, layers_in, renumbered, writes
from merging.materialize import laid_steps
from merging.recipe import Recipe
from merging.resident import make_into, placed
from merging.sources import Sources


class LivePath:
    """A model with as many layers as the longest path, filled with one merge after the other.

    A recipe's layers come first; those left over add nothing to the residual stream, so the model computes what one
    without them does. A tensor that would be made the same way as the one that is there is not made again.
    """

    def __init__(self, model: nn.Module, sources: Sources, slots: int, kept: KeptDirections | None = None) -> None:
        """Raises `MergeError` where the model does not have the sources' tensors in `slots` layers of one kind."""
        self._sources, self._slots, self._kept = sources, slots, kept
        reference = sources.reference
        layers = layers_in(reference.names)
        first = layers[min(layers)]
        check_writers(first)
        inside = [name for names in layers.values() for name in names]
        wanted = {name: reference.shapes[name] for name in reference.names if name not in inside}
        wanted |= {renumbered(name, slot): reference.shapes[name] for slot in range(slots) for name in first}
        self._targets = placed(model, wanted)
        self.depth = len(layers)
        """How many layers a recipe without a path has."""
        self._made: dict[str, object] = {}

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The parameter or buffer of every tensor of the result, of all layers there are."""
        return self._targets

    @torch.no_grad()
    def fill(self, recipe: Recipe) -> None:
        """Make the model this merge. Raises `MergeError` as `materialize` does, and for a path that is too long.

        The model is then no merge at all, and the next call writes everything.
        """
        if len(recipe.path or ()) > self._slots:
            raise MergeError(f"the path has {len(recipe.path or ())} layers, but the model has {self._slots}.")
        before, self._made = self._made, {}
        made: dict[str, object] = {}
        kept = self._kept.of(recipe) if self._kept is not None else None
        for laid in laid_steps(recipe, self._sources):
            name = laid.step.name
            if name in self._targets:
                made[name] = _way(laid, recipe)
                if before.get(name) != made[name]:
                    directions = kept(laid.origin) if kept is not None and laid.is_merged else None
                    make_into(self._targets[name], laid.step, directions)
        for name, target in self._targets.items():
            if name not in made and writes(name):
                target.zero_()
        self._made = made


def _way(laid: Laid, recipe: Recipe) -> object:
    """What two tensors share that are made the same way, of recipes over the same sources."""
    visited = (None, 1.0) if laid.visit is None else (laid.visit.source, laid.visit.scale)
    how = (recipe.method, tuple(recipe.structure.items()), recipe.seed, tuple(recipe.experts), recipe.dtype)
    return laid.origin, visited, how, laid.step.at.row if laid.is_merged and laid.step.at is not None else None
