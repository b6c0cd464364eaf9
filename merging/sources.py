"""The opened models of a merge: kept open between recipes that differ in method or coefficients."""

from functools import cached_property
from pathlib import Path
from typing import Any

from merging.alignment import open_aligned, reference_of
from merging.check import check_method
from merging.checkpoint import Checkpoint, fingerprint
from merging.compatibility import check_compatible
from merging.errors import MergeError
from merging.frozen import Frozen
from merging.groups import Group, groups_of, is_merged
from merging.methods import METHODS
from merging.methods.calibrated import Calibrated
from merging.recipe import Recipe, Source
from merging.whole import Whole


class Sources:
    """The base and the experts that a recipe names, opened and found compatible.

    Serves every recipe over these models, also one that leaves some of them out.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Raises `CheckpointError` where a model cannot be opened or the models do not fit each other."""
        if not recipe.experts:
            raise MergeError("a merge must have at least one expert, but the recipe has none.")
        self.unmerged = recipe.unmerged
        self.base, experts = open_aligned(recipe.base, list(recipe.experts.values()), self.unmerged)
        self.experts = dict(zip(recipe.experts, experts, strict=True))
        self.reference = reference_of(self.base, experts, self.unmerged)
        """The base, or the first expert where there is none: it lends names, dtypes, config, tokenizer and the
        tensors that are not merged (see `reference_of`)."""
        check_compatible(self.reference, [one for one in self._all() if one is not self.reference], self.unmerged)
        self._whole: dict[tuple[str, ...], Whole] = {}
        self._surveys: dict[str, Any] = {}

    @property
    def config_folder(self) -> str:
        """The folder that config and tokenizer come from."""
        return str(self.reference.folder)

    @cached_property
    def groups(self) -> list[Group]:
        """The groups of the tensors that are merged."""
        return groups_of(self.reference.names, self.unmerged)

    def depth(self, group: Group) -> float | None:
        """Where a layer stands: 0 for the first of the layers, 1 for the last; None outside of them."""
        if group.layer is None:
            return None
        place = self._layers.index(group.layer)
        return place / (len(self._layers) - 1) if place else 0.0

    @cached_property
    def _layers(self) -> list[int]:
        return list(dict.fromkeys(group.layer for group in self.groups if group.layer is not None))

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
        """The recipe with the fingerprints of sources and statistics filled in: its digest then depends on no paths.

        Raises `MergeError` where it has that of other statistics than those that are there.
        """
        base, experts = self.chosen(recipe)

        def known(source: Source, checkpoint: Checkpoint) -> Source:
            return source.model_copy(update={"fingerprint": fingerprint(checkpoint, cache)})

        return recipe.model_copy(
            update={
                "base": known(recipe.base, base) if recipe.base is not None and base is not None else None,
                "experts": {name: known(source, experts[name]) for name, source in recipe.experts.items()},
                "statistics": statistics_of(recipe, cache),
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

    def survey(self, recipe: Recipe, structure: Frozen) -> Any:
        """What the recipe's method asks about the whole models (`Method.survey`); asked once for each structure."""
        key = f"{recipe.method}\0{structure.model_dump_json()}\0{list(recipe.experts)}"
        if key not in self._surveys:
            self._surveys[key] = METHODS[recipe.method].survey(self.whole(recipe), structure)
        return self._surveys[key]

    def whole(self, recipe: Recipe) -> Whole:
        """The recipe's models as wholes; what is found out about them serves every recipe with these experts."""
        names = tuple(recipe.experts)
        if names not in self._whole:
            base, experts = self.chosen(recipe)
            merged = [
                name
                for name in self.reference.names
                if self.reference.is_float(name) and is_merged(name, self.unmerged)
            ]
            readers = [expert.tensor for expert in experts.values()]
            self._whole[names] = Whole(merged, base.tensor if base is not None else None, readers)
        return self._whole[names]

    def _all(self) -> list[Checkpoint]:
        return [*([self.base] if self.base is not None else []), *self.experts.values()]


def statistics_of(recipe: Recipe, cache: Path | None = None) -> str | None:
    """The fingerprint of the statistics that the recipe's method reads, None where it reads none.

    Raises `MergeError` where they are missing, or others than those whose fingerprint the recipe has.
    """
    structure = check_method(recipe)
    found = structure.fingerprint(tuple(recipe.experts), cache) if isinstance(structure, Calibrated) else None
    if recipe.statistics is not None and found != recipe.statistics:
        raise MergeError(
            f"the statistics must have fingerprint {recipe.statistics[:16]}, but have {str(found)[:16]}; they were "
            "collected again, or are those of another recipe. Take `statistics` out of the recipe to merge with these."
        )
    return found


def _same(one: Source, other: Source) -> bool:
    if one.fingerprint is not None and other.fingerprint is not None:
        return one.fingerprint == other.fingerprint
    return (one.path, one.revision) == (other.path, other.revision)
