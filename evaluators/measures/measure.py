"""What a measure of a generated answer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from evaluators.counted import Counted

if TYPE_CHECKING:
    import torch


class Answer(NamedTuple):
    """What a model wrote to a prompt: its text up to the first stop string, the tokens of that text, what ended it.

    The end token is none of the tokens. `ended` is `end` (an end token), `stop` (a stop string), `length` (the limit).
    """

    text: str
    tokens: tuple[int, ...]
    ended: Literal["stop", "end", "length"]


Measured = Callable[[Sequence[Answer], "torch.device"], list[float]]
"""One number per answer, each a function of that answer alone; the device is where the model that wrote it is."""


class Measure(Counted):
    """One entry of `measures`, a task of its own. A kind of measure is one file with a subclass of this, listed beside.

    Lower is better, unless a measure says otherwise.
    """

    measure: str

    @property
    def metric(self) -> str:
        """What reports call the number."""
        return self.measure

    @property
    def higher_is_better(self) -> bool:
        return False

    def located(self, place: Callable[[str], str]) -> Self:  # noqa: ARG002 - most have no paths
        """The same with every path in it put through `place`, which makes it absolute."""
        return self

    def open(self) -> Measured:
        """The measure, ready to be taken. Raises `EvaluatorError` where a file it needs is not as it must be."""
        raise NotImplementedError


def each(measure: Callable[[Answer], float]) -> Measured:
    """A measure that looks at one answer at a time."""
    return lambda answers, _device: [measure(answer) for answer in answers]
