"""The `path` of a space: which layers a trial's model has, one after the other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from merging.frozen import Frozen
from merging.groups import Group
from merging.recipe import Visit
from search_spaces.errors import SpaceError

if TYPE_CHECKING:  # optuna takes a second to import
    from optuna.distributions import BaseDistribution

MERGE = "merge"


class PathSpec(Frozen):
    """Blocks of `block` consecutive layers are used once, up to `repeats` times one after the other, or not at all.

    `sources` are what a block may be taken from: the merge, the base, an expert. `scales` is the range of what a
    repeated block's further copies add to the residual stream, times 1 where it is None.
    """

    block: int = Field(default=1, ge=1)
    repeats: int = Field(default=2, ge=1, le=4)
    skip: bool = True
    sources: tuple[str, ...] = (MERGE,)
    scales: tuple[float, float] | None = None

    @field_validator("sources")
    @classmethod
    def _each_source_once(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        if not sources or len(dict.fromkeys(sources)) < len(sources):
            raise ValueError(f"must name each source once, `{MERGE}` for the merge itself, but is {list(sources)}")
        return sources

    @field_validator("scales")
    @classmethod
    def _scales_are_a_range(cls, scales: tuple[float, float] | None) -> tuple[float, float] | None:
        if scales is not None and not scales[0] < scales[1]:
            raise ValueError(f"must be [low, high] with low < high, but is {list(scales)}")
        return scales

    @model_validator(mode="after")
    def _leaves_a_choice(self) -> "PathSpec":
        if self.repeats == 1 and not self.skip and len(self.sources) == 1:
            raise ValueError("must leave something to search: `repeats` above 1, `skip`, or several `sources`")
        return self


@dataclass(frozen=True)
class BoundPath:
    """The path of one model's layers, in their order."""

    spec: PathSpec
    layers: tuple[int, ...]

    def blocks(self) -> list[tuple[int, ...]]:
        """The layers of each block; the last may have fewer."""
        size = self.spec.block
        return [self.layers[start : start + size] for start in range(0, len(self.layers), size)]

    def always(self) -> dict[str, "BaseDistribution"]:
        """The parameters that every trial has."""
        from optuna.distributions import CategoricalDistribution

        found: dict[str, BaseDistribution] = {}
        uses = list(range(0 if self.spec.skip else 1, self.spec.repeats + 1))
        for number in range(len(self.blocks())):
            if len(uses) > 1:
                found[_name(number, "use")] = CategoricalDistribution(uses)
            if len(self.spec.sources) > 1:
                found[_name(number, "from")] = CategoricalDistribution(self.spec.sources)
        return found

    def branches(self) -> dict[str, dict[Any, dict[str, "BaseDistribution"]]]:
        """The scale of a block that is used more than once."""
        from optuna.distributions import FloatDistribution

        if self.spec.scales is None:
            return {}
        return {
            _name(number, "use"): {
                use: {_name(number, "scale"): FloatDistribution(*self.spec.scales)}
                for use in range(2, self.spec.repeats + 1)
            }
            for number in range(len(self.blocks()))
        }

    def visits(self, parameters: Mapping[str, Any]) -> tuple[Visit, ...] | None:
        """The path that a trial's parameters stand for, None where it is that of the models."""
        found = []
        for number, layers in enumerate(self.blocks()):
            source = parameters.get(_name(number, "from"), self.spec.sources[0])
            for use in range(parameters.get(_name(number, "use"), 1)):
                scale = parameters.get(_name(number, "scale"), 1.0) if use else 1.0
                found += [Visit(layer=one, source=None if source == MERGE else source, scale=scale) for one in layers]
        return None if tuple(found) == tuple(Visit(layer=one) for one in self.layers) else tuple(found)

    def plain(self) -> dict[str, Any] | None:
        """The parameters of the models' own path, None where it is not in the space."""
        return self.usual() if MERGE in self.spec.sources else None

    def usual(self) -> dict[str, Any]:
        """Every block once, from the merge or from the first source there is."""
        source = MERGE if MERGE in self.spec.sources else self.spec.sources[0]
        return {name: 1 if name.endswith(".use") else source for name in self.always()}


def longest(spec: PathSpec, groups: Iterable[Group]) -> int:
    """How many layers the longest path has."""
    return len({group.layer for group in groups if group.layer is not None}) * spec.repeats


def bound_path(spec: PathSpec | None, layers: Sequence[int], models: Sequence[str]) -> BoundPath | None:
    """Raises `SpaceError` where the spec does not fit the model: no layers, or sources that are none of its models."""
    if spec is None:
        return None
    if not layers:
        raise SpaceError("`path` needs layers with numbers, but the model has none; leave it out")
    for source in spec.sources:
        if source != MERGE and source not in models:
            raise SpaceError(
                f"`path.sources` are `{MERGE}` and models of the job ({', '.join(models)}), but name {source!r}"
            )
    return BoundPath(spec, tuple(layers))


def _name(block: int, what: str) -> str:
    return f"path.{block}.{what}"
