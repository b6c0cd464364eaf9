"""What a method may ask about the models as wholes, before it is called for any tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

R = TypeVar("R")


class WholeModel(Protocol):
    """The models of one recipe, read piece by piece: whole-model statistics never need a whole model in memory.

    Experts are counted in the recipe's order. Only float tensors that are merged are part of it.
    """

    @property
    def experts(self) -> int:
        """How many experts there are."""

    def pieces(self) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
        """The same piece of the base (None where there is none) and of each expert, as stored; one full reading."""

    def each(self, look: Callable[[Iterator[tuple[Tensor | None, list[Tensor]]]], R]) -> list[R]:
        """What `look` makes of the pieces of each tensor, in order; several at a time where torch may use threads."""

    def squared_norms(self) -> tuple[float, ...]:
        """|tau_k|^2 of each expert's whole task vector, float64. Remembered."""
