"""Keep a live model at the recipe of the moment, writing only what changed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from merging.check import check_method, check_recipe
from merging.groups import group_of
from merging.kept_directions import Directions, KeptDirections
from merging.materialize import merged_dtypes, step_of
from merging.recipe import Recipe
from merging.resident import Places
from merging.sources import Sources


class LiveMerge:
    """A model whose parameters are filled with one merge after the other of the same sources.

    After `fill(recipe)` the parameters have the bits that a fresh `materialize(recipe)` copied into them would leave:
    every tensor is made from the sources, never from the merge before. Groups whose coefficients stayed are left as
    they are. A model on a GPU gets its tensors from the CPU, where they are merged.
    """

    def __init__(self, model: nn.Module, sources: Sources, kept: KeptDirections | None = None) -> None:
        """`kept` keeps directions between recipes of one structure; they are made anew each time where it is None.

        Raises `MergeError` where the sources' tensors do not fit the model (see `Places`).
        """
        self._model = model
        self._sources = sources
        self._kept = kept
        self._recipe: Recipe | None = None
        reference = sources.reference
        places = Places(model)
        found = {name: places.of(name, reference.shapes[name]) for name in reference.names}
        places.check_complete()
        # of several tensors with one place the last would stay, so it alone is written
        last = {id(target): name for name, target in found.items() if target is not None}
        self._targets = {name: target for name, target in found.items() if target is not None and name in last.values()}
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
        structure, dtypes = check_method(recipe), merged_dtypes(recipe, self._sources)
        for name in names:
            target = self._targets[name]
            step = step_of(recipe, self._sources, name, structure, dtypes[name])
            direct = holds(target, step.dtype)
            out = target.detach() if direct else torch.empty(step.shape, dtype=step.dtype)
            step.into(out, kept(name) if kept is not None and step.method is not None else None)
            if not direct:
                target.copy_(out)


def changed_groups(before: Recipe | None, now: Recipe) -> set[str] | None:
    """The groups whose rows differ; None where anything else does too, so that all have to be written."""
    if before is None or before.model_copy(update={"coefficients": now.coefficients}) != now:
        return None
    if list(before.experts) != list(now.experts):  # equal mappings may differ in order, and order adds up differently
        return None
    return {group for group, row in now.coefficients.items() if before.coefficients.get(group) != row}


def holds(target: Tensor, dtype: torch.dtype) -> bool:
    """Whether a merged tensor can be made where it will stay."""
    return target.device.type == "cpu" and target.dtype == dtype and target.is_contiguous()
