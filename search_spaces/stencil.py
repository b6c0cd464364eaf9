"""How one group's coefficient follows from a space's coordinates."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Stencil:
    """A point on the way from one coordinate to another; most groups stand on a single one (`share` 0).

    A coordinate is named like `layer.12.attention`; with a method's coefficient it becomes the parameter
    `weight.layer.12.attention.<coefficient>`.
    """

    lower: str
    upper: str
    share: float

    @classmethod
    def on(cls, coordinate: str) -> "Stencil":
        """The group's coefficient is the coordinate itself."""
        return cls(coordinate, coordinate, 0.0)

    def value(self, coordinates: Mapping[str, float]) -> float:
        """Linear interpolation, in the form that is exact where both coordinates are equal."""
        low, high = coordinates[self.lower], coordinates[self.upper]
        return low + self.share * (high - low)

    def used(self) -> tuple[str, ...]:
        """The coordinates that have a say, without repeats."""
        if self.share == 0.0 or self.lower == self.upper:
            return (self.lower,)
        return (self.lower, self.upper)


def joined(*parts: str) -> str:
    """A coordinate's name from its parts, empty ones left out."""
    return ".".join(part for part in parts if part)
