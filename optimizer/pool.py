"""What the coordinator asks of the workers, whatever runs them."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Unit:
    """One recipe to score on some examples: the smallest thing a worker is asked. `key` is the asker's own.

    With `scales`, one for each task of the examples, the gradient of its coefficients is wanted instead of scores; with
    `statistics` (`kind`, `expert`, `folder`), what a closed-form merge needs to know of an expert.
    """

    key: str
    recipe: dict[str, Any]
    ids: tuple[str, ...]
    scales: dict[str, float] | None = None
    statistics: dict[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """What became of a unit: a worker's `Scored` or `Differentiated` as plain data, or None where the worker was lost.

    `lost` is then the reason.
    """

    unit: Unit
    scored: dict[str, Any] | None
    worker: str
    lost: str | None = None


class Pool(Protocol):
    """Workers that answer units, one at a time each."""

    def idle(self) -> int:
        """How many workers could start a unit now."""
        ...

    def submit(self, unit: Unit) -> None:
        """Hand a unit to an idle worker. Raises `RuntimeError` where none is idle."""
        ...

    def wait(self, seconds: float) -> list[Answer]:
        """The units that ended within `seconds`; returns as soon as there is one."""
        ...

    def resize(self, count: int) -> None:
        """Have so many workers from now on, at least one: those too many end after what they are doing."""
        ...
