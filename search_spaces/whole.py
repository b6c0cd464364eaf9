"""The global space: one coefficient per expert and module set, the same at every depth."""

from collections.abc import Sequence
from typing import Literal

from merging.groups import Group
from search_spaces.base import SpaceBase
from search_spaces.modules import ALL, ModuleSet, parse_sets, set_name
from search_spaces.stencil import Stencil


class GlobalSpace(SpaceBase):
    """Parameters `weight.<coefficient>`, or `weight.<set>.<coefficient>` where `modules` names sets."""

    granularity: Literal["global"]

    def sets(self) -> tuple[ModuleSet, ...]:
        """The sets the job names, `all` where it names none."""
        return parse_sets(self.modules or (ALL,))

    def stencils(self, groups: Sequence[Group]) -> dict[Group, Stencil | None]:
        """A group's stencil, None for what is held at `rest`."""
        found: dict[Group, Stencil | None] = {}
        for group in groups:
            name = set_name(self.sets(), group)
            found[group] = None if name is None else Stencil.on("" if name == ALL else name)
        return found
