"""What the strategy asks of the world, and what it is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evaluators.protocol import Outcome, Split
from optimizer.efe import DIFFERENTIATED, SCORED
from optimizer.virtual import Virtual as Kind

Array = NDArray[np.float64]
Origin = Literal["baseline", "search", "recommendation"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A merge that is scored: one trial.

    `point` is its place in the space, None for a baseline that is no point of it, which `label` then names. `number`
    counts candidates in the order in which they are first asked about. `about` becomes attributes of the trial.
    """

    number: int
    point: Array | None
    origin: Origin
    label: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> Array:
        """The point of a candidate that is one."""
        assert self.point is not None
        return self.point


@dataclass(frozen=True, eq=False)
class Score:
    """Score a candidate on these examples of a split. The answer is `Scored`."""

    candidate: Candidate
    ids: tuple[str, ...]
    split: Split = "search"


@dataclass(frozen=True, eq=False)
class Slope:
    """The gradient, at a point, of the sum over tasks of `scales[task]` times the task's mean loss on these examples.

    `taught` of them have a teacher that is asked for the first time, which is charged. `joined` are the virtual experts
    whose coefficients may move; what the gradient says of others is not looked at. The answer is `Sloped`.
    """

    point: Array
    ids: tuple[str, ...]
    scales: Mapping[str, float]
    taught: int = 0
    joined: tuple[str, ...] = ()

    @property
    def price(self) -> int:
        """In EFE."""
        return DIFFERENTIATED * len(self.ids) + SCORED * self.taught


@dataclass(frozen=True, eq=False)
class Virtual:
    """Make a closed-form merge of the experts and let it join them; `examples` are what each is calibrated on.

    The answer is `Made`.
    """

    name: Kind
    examples: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Close:
    """A candidate is scored as far as it will be: what is known of it. `standard_error` None where it is not known."""

    candidate: Candidate
    value: float | None
    standard_error: float | None
    examples: int


@dataclass(frozen=True, eq=False)
class Recommend:
    """What the answer would be if the search ended here."""

    point: Array


@dataclass(frozen=True, eq=False)
class Note:
    """A sentence for the report, on what the strategy decided and why."""

    text: str


Ask = Score | Slope | Virtual | Close | Recommend | Note


@dataclass(frozen=True)
class Scored:
    """One outcome per example asked about, in their order; or the reason why there are none."""

    outcomes: Sequence[Outcome]
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Sloped:
    """The gradient by the space's parameters, and each example's loss; or the reason why there is none."""

    gradient: Array
    losses: Sequence[float]
    error: str | None = None


@dataclass(frozen=True)
class Made:
    """The virtual expert has joined; or the reason why not."""

    error: str | None = None


Answer = Scored | Sloped | Made | None
