"""The layerwise space: one coefficient per expert, module set and block of layers."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from merging.groups import Group
from search_spaces.base import SpaceBase, layers_of
from search_spaces.modules import ALL, set_name
from search_spaces.stencil import Stencil, joined


class LayerwiseSpace(SpaceBase):
    """Parameters `weight.layer.12.<set>.<coefficient>`, or `weight.layers.0-3.<set>...` for several layers.

    Blocks are consecutive layers, `layers_per_group` each; the last may be smaller. Outside the layers a set
    has one coefficient more (`weight.<set>.<coefficient>`), if it owns tensors there.
    """

    granularity: Literal["layerwise"]
    layers_per_group: int = Field(default=1, ge=1)

    def stencils(self, groups: Sequence[Group]) -> dict[Group, Stencil | None]:
        """A group's stencil, None for what is held at `rest`."""
        blocks = _blocks(layers_of(self.granularity, list(groups)), self.layers_per_group)
        found: dict[Group, Stencil | None] = {}
        for group in groups:
            name = set_name(self.sets(), group)
            if group.layer is None:
                name = self.name_outside(group)
            elif name is not None:
                name = joined(blocks[group.layer], "" if name == ALL else name)
            found[group] = None if name is None else Stencil.on(name)
        return found


def _blocks(layers: list[int], size: int) -> dict[int, str]:
    """The name of each layer's block: `layer.12`, or `layers.0-3` for several."""
    names: dict[int, str] = {}
    for start in range(0, len(layers), size):
        block = layers[start : start + size]
        name = f"layer.{block[0]}" if len(block) == 1 else f"layers.{block[0]}-{block[-1]}"
        names.update(dict.fromkeys(block, name))
    return names
