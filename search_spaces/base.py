"""The settings every search space has: module sets, bounds, and what holds the rest."""

from pydantic import Field, field_validator

from merging.frozen import Frozen
from merging.groups import Group
from search_spaces.errors import SpaceError
from search_spaces.modules import ALL, ModuleSet, parse_sets, set_name
from search_spaces.path import PathSpec


class SpaceBase(Frozen):
    """`modules` names the sets that get a coefficient each, `bounds` the range of every coefficient.

    Groups whose module no set names are held at `rest`, one number for every coefficient of the method. It is
    required where there are such groups, and has no effect where there are none. `path` has trials differ in their
    layers too: some left out, some repeated, some taken from one model.
    """

    modules: tuple[str, ...] | None = None
    bounds: tuple[float, float] = Field(default=(0.0, 1.0))
    rest: float | None = None
    path: PathSpec | None = None

    @field_validator("modules")
    @classmethod
    def _sets_can_be_read(cls, modules: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if modules is not None:
            parse_sets(modules)
        return modules

    @field_validator("bounds")
    @classmethod
    def _bounds_are_a_range(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        low, high = bounds
        if not low < high:
            raise ValueError(f"must be [low, high] with low < high, but is [{low:g}, {high:g}]")
        return bounds

    def sets(self) -> tuple[ModuleSet, ...] | None:
        """The sets the job names, None where it names none."""
        return None if self.modules is None else parse_sets(self.modules)

    def name_outside(self, group: Group) -> str | None:
        """The coordinate of a group outside the layers: its set's name, `outside` for the set `all`."""
        name = set_name(self.sets(), group)
        return "outside" if name == ALL else name


def layers_of(granularity: str, groups: list[Group]) -> list[int]:
    """The numbers of the model's layers in order of depth. Raises `SpaceError` where there are none."""
    layers = sorted(dict.fromkeys(group.layer for group in groups if group.layer is not None))
    if not layers:
        raise SpaceError(
            f"granularity `{granularity}` needs tensors in numbered layers, but the model has none "
            f"(its groups are {', '.join(group.name for group in groups)}); use granularity `global`"
        )
    return layers
