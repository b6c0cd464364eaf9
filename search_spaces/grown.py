"""The grown space: a coefficient for each expert, layer and kind of module, searched from coarse to fine."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from merging.groups import Group
from search_spaces.base import SpaceBase
from search_spaces.modules import followed_module, set_name
from search_spaces.stencil import Stencil, joined


class GrownSpace(SpaceBase):
    """Parameters `weight.layer.12.attention.<coefficient>`, `weight.layer.12.mlp...`, `weight.embeddings...`.

    Norms and other tensors of a layer follow its attention, those outside follow the head, unless `modules` names sets.
    It fits every model, also one without numbered layers. The bounds allow extrapolation and some negation.
    """

    granularity: Literal["grown"]
    bounds: tuple[float, float] = Field(default=(-0.25, 1.5))

    def stencils(self, groups: Sequence[Group]) -> dict[Group, Stencil | None]:
        """A group's stencil, None for what is held at `rest`."""
        found: dict[Group, Stencil | None] = {}
        for group in groups:
            name = self._name(group, groups)
            layer = "" if group.layer is None else f"layer.{group.layer}"
            found[group] = None if name is None else Stencil.on(joined(layer, name))
        return found

    def _name(self, group: Group, groups: Sequence[Group]) -> str | None:
        if self.modules is not None:
            return set_name(self.sets(), group)
        followed = followed_module(group)
        if group.layer is None or followed in ("attention", "mlp"):
            return followed
        beside = {other.module for other in groups if other.layer == group.layer}
        return "attention" if "attention" in beside else "mlp" if "mlp" in beside else followed
