"""The opened models of a merge: kept open between recipes that differ in method or coefficients."""

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from merging.alignment import aligned, reference_of
from merging.checkpoint import Checkpoint, fingerprint, open_checkpoint
from merging.compatibility import check_compatible
from merging.errors import MergeError
from merging.groups import Group, groups_of, is_merged
from merging.methods.arithmetic import kept_count
from merging.pieces import pieces
from merging.recipe import Recipe, Source
from merging.thresholds import histogram, kth_largest_of


class Sources:
    """The base and the experts that a recipe names, opened and found compatible.

    Serves every recipe over these models, also one that leaves some of them out.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Raises `CheckpointError` where a model cannot be opened or the models do not fit each other."""
        if not recipe.experts:
            raise MergeError("a merge must have at least one expert, but the recipe has none.")
        self.unmerged = recipe.unmerged
        base = open_checkpoint(recipe.base) if recipe.base is not None else None
        experts = [open_checkpoint(source) for source in recipe.experts.values()]
        self.base, experts = aligned(base, experts, self.unmerged)
        self.experts = dict(zip(recipe.experts, experts, strict=True))
        self.reference = reference_of(self.base, experts, self.unmerged)
        """The base, or the first expert where there is none: it lends names, dtypes, config, tokenizer and the
        tensors that are not merged (see `reference_of`)."""
        check_compatible(self.reference, [one for one in self._all() if one is not self.reference], self.unmerged)
        self._histograms: dict[str, Tensor] = {}
        self._thresholds: dict[tuple[str, float], float] = {}

    @property
    def config_folder(self) -> str:
        """The folder that config and tokenizer come from."""
        return str(self.reference.folder)

    @cached_property
    def groups(self) -> list[Group]:
        """The groups of the tensors that are merged."""
        return groups_of(self.reference.names, self.unmerged)

    def verify(self, cache: Path | None = None) -> None:
        """Hash every model whose source carries a fingerprint. Raises `MergeError` where they differ."""
        for checkpoint in self._all():
            expected = checkpoint.source.fingerprint
            if expected is None:
                continue
            found = fingerprint(checkpoint, cache)
            if found != expected:
                raise MergeError(
                    f"{checkpoint.folder}: the weights must have fingerprint {expected[:16]}, but have "
                    f"{found[:16]}; the model was changed, or another revision is on this machine."
                )

    def fingerprinted(self, recipe: Recipe, cache: Path | None = None) -> Recipe:
        """The recipe with every source's fingerprint filled in: its digest then does not depend on paths."""
        base, experts = self.chosen(recipe)

        def known(source: Source, checkpoint: Checkpoint) -> Source:
            return source.model_copy(update={"fingerprint": fingerprint(checkpoint, cache)})

        return recipe.model_copy(
            update={
                "base": known(recipe.base, base) if recipe.base is not None and base is not None else None,
                "experts": {name: known(source, experts[name]) for name, source in recipe.experts.items()},
            }
        )

    def chosen(self, recipe: Recipe) -> tuple[Checkpoint | None, dict[str, Checkpoint]]:
        """The opened models of a recipe, in its order. Raises `MergeError` where it names others."""
        base = None
        if recipe.base is not None:
            if self.base is None or not _same(recipe.base, self.base.source):
                raise MergeError(f"the recipe's base {recipe.base.path} is not among the opened models.")
            base = self.base
        experts = {}
        for name, source in recipe.experts.items():
            if name not in self.experts or not _same(source, self.experts[name].source):
                raise MergeError(
                    f"the recipe's expert `{name}` ({source.path}) is not among the opened models; "
                    f"there is: {', '.join(self.experts)}."
                )
            experts[name] = self.experts[name]
        return base, experts

    def reference_of(self, recipe: Recipe) -> Checkpoint:
        """The model that lends one recipe what `reference` lends them all. Raises `MergeError` as `chosen` does."""
        base, experts = self.chosen(recipe)
        if set(recipe.unmerged) != set(self.unmerged):
            raise MergeError(
                f"the models were opened with `unmerged` {list(self.unmerged)}, but the recipe has "
                f"{list(recipe.unmerged)}; open them for it."
            )
        found = reference_of(base, list(experts.values()), self.unmerged)
        if self.unmerged and found is not self.reference:
            raise MergeError(
                f"the tensors that are not merged come from {self.reference.folder}, but the recipe would take them "
                f"from {found.folder}; keep that model in it, or open the models for this recipe."
            )
        return found

    def threshold(self, expert: str, density: float) -> float:
        """The smallest magnitude an expert's task vector keeps when the whole model keeps `density` of it.

        float32. The first call for an expert reads its weights twice, one for another density once, a
        repeated one never.
        """
        key = (expert, density)
        if key not in self._thresholds:
            pieces = partial(self._magnitudes, expert)
            if expert not in self._histograms:
                self._histograms[expert] = histogram(pieces())
            upper = self._histograms[expert]
            self._thresholds[key] = kth_largest_of(kept_count(density, int(upper.sum())), upper, pieces())
        return self._thresholds[key]

    def _magnitudes(self, expert: str) -> Iterator[Tensor]:
        """|task vector| of every float tensor that is merged, in float32, piece by piece."""
        if self.base is None:
            raise MergeError("a threshold over the whole model needs a base, but there is none.")
        for name in self.reference.names:
            if self.reference.is_float(name) and is_merged(name, self.unmerged):
                ours = pieces(self.base.tensor(name))
                theirs = pieces(self.experts[expert].tensor(name))
                for base, tuned in zip(ours, theirs, strict=True):
                    yield (tuned.float() - base.float()).abs_()

    def _all(self) -> list[Checkpoint]:
        return [*([self.base] if self.base is not None else []), *self.experts.values()]


def _same(one: Source, other: Source) -> bool:
    if one.fingerprint is not None and other.fingerprint is not None:
        return one.fingerprint == other.fingerprint
    return (one.path, one.revision) == (other.path, other.revision)
