"""Answer what a method asks about whole models, reading them piece by piece."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import TypeVar

from torch import Tensor

from merging.errors import MergeError
from merging.methods.arithmetic import present, squared_length
from merging.pieces import pieces
from merging.threads import each

Read = Callable[[str], Tensor]
"""A tensor by its name, as it is stored."""
Pieces = tuple[Tensor | None, list[Tensor]]
R = TypeVar("R")
_NO_BASE = "a task vector is what an expert adds to a base, but there is none; name a `base`."


class Whole:
    """The merged tensors of a base and experts: a `merging.methods.whole_model.WholeModel`, its answers remembered."""

    def __init__(self, names: Sequence[str], base: Read | None, tuned: Sequence[Read]) -> None:
        """`names` are the float tensors that are merged, `tuned` has a reader for each expert."""
        self._names, self._base, self._tuned = tuple(names), base, tuple(tuned)
        self._norms: tuple[float, ...] | None = None

    @property
    def experts(self) -> int:
        return len(self._tuned)

    def pieces(self) -> Iterator[Pieces]:
        for name in self._names:
            yield from self._pieces_of(name)

    def each(self, look: Callable[[Iterator[Pieces]], R]) -> list[R]:
        return each(lambda name: look(self._pieces_of(name)), self._names)

    def squared_norms(self) -> tuple[float, ...]:
        """Raises `MergeError` where there is no base, and where a model is not finite."""
        if self._norms is None:
            if self._base is None:
                raise MergeError(_NO_BASE)
            by_tensor = self.each(self._squared_lengths)
            for name, squares in zip(self._names, by_tensor, strict=True):
                if not all(map(math.isfinite, squares)):
                    raise MergeError(
                        f"`{name}` must be finite in every model, but holds NaN or infinity in one; save or download "
                        "the weights again."
                    )
            self._norms = tuple(math.fsum(squares[expert] for squares in by_tensor) for expert in range(self.experts))
        return self._norms

    def _pieces_of(self, name: str) -> Iterator[Pieces]:
        tuned = [pieces(read(name)) for read in self._tuned]
        base = pieces(self._base(name)) if self._base is not None else repeat(None)
        for origin, parts in zip(base, zip(*tuned, strict=True), strict=False):
            yield origin, list(parts)

    def _squared_lengths(self, parts: Iterator[Pieces]) -> list[float]:
        """|tau_k|^2 of each expert in one tensor; squares and sums in float64."""
        found = [0.0] * self.experts
        for base, tuned in parts:
            for expert, one in enumerate(tuned):
                found[expert] += squared_length(one, present(base))
        return found
