"""The smooth space: a few control points over depth, straight lines between them."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from merging.groups import Group
from search_spaces.base import SpaceBase, layers_of
from search_spaces.errors import SpaceError
from search_spaces.modules import ALL, set_name
from search_spaces.stencil import Stencil, joined


class SmoothSpace(SpaceBase):
    """Parameters `weight.depth.0.<set>.<coefficient>` for the anchor at the first layer, on to the last.

    Anchors stand at equal distances; the first and the last layer stand on one. A layer between two anchors
    gets the value on the line between them, which is within the bounds because both ends are. Outside the
    layers a set has one coefficient more, as in the layerwise space.
    """

    granularity: Literal["smooth"]
    anchors: int = Field(ge=2)

    def stencils(self, groups: Sequence[Group]) -> dict[Group, Stencil | None]:
        """A group's stencil, None for what is held at `rest`."""
        layers = layers_of(self.granularity, list(groups))
        if self.anchors > len(layers):
            raise SpaceError(
                f"`anchors` must be at most the number of layers, {len(layers)}, but is {self.anchors}; "
                "use fewer anchors, or granularity `layerwise`"
            )
        depth = {layer: position for position, layer in enumerate(layers)}
        found: dict[Group, Stencil | None] = {}
        for group in groups:
            if group.layer is None:
                name = self.name_outside(group)
                found[group] = None if name is None else Stencil.on(name)
            else:
                name = set_name(self.sets(), group)
                found[group] = None if name is None else self._between(depth[group.layer], len(layers), name)
        return found

    def _between(self, position: int, layers: int, name: str) -> Stencil:
        """The stencil of the layer at `position`, in whole numbers as far as they go."""
        anchor, remainder = divmod(position * (self.anchors - 1), layers - 1)
        suffix = "" if name == ALL else name
        lower = joined(f"depth.{anchor}", suffix)
        if remainder == 0:
            return Stencil.on(lower)
        return Stencil(lower, joined(f"depth.{anchor + 1}", suffix), remainder / (layers - 1))
