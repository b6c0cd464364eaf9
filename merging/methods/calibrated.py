"""What methods share that weigh the experts by statistics of calibration examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.method import At

if TYPE_CHECKING:
    from torch import Tensor

    from merging.statistics import Statistics


class Calibrated(Frozen):
    """Settings of methods with statistics, of the kind `kind`."""

    kind: ClassVar[Literal["gram", "fisher"]]
    statistics: str = Field(default="", description="the folder with a file for each expert, as `calibrate` writes it")

    def opened(self, experts: Sequence[str]) -> list[Statistics]:
        """The statistics of each expert, in order; nothing where no folder is named. Raises `MergeError`."""
        from merging.statistics import expert_statistics  # needs torch, which the table of methods must not

        return expert_statistics(Path(self.statistics), self.kind, experts) if self.statistics else []

    def fingerprint(self, experts: Sequence[str], cache: Path | None = None) -> str | None:
        """A hash of what the folder holds for these experts; None where no folder is named. Raises `MergeError`."""
        from merging.statistics import expert_fingerprint

        return expert_fingerprint(Path(self.statistics), self.kind, experts, cache) if self.statistics else None


def from_experts(base: Tensor | None, tuned: Sequence[Tensor], at: At[Any]) -> list[Tensor]:  # noqa: ARG001
    """The experts themselves, in float32. A base takes no part."""
    return [expert.float() for expert in tuned]


def weighted_average(experts: Sequence[Tensor], row: Sequence[float]) -> Tensor:
    """sum w_i theta_i / sum w_i, a new tensor."""
    total = sum(row)
    merged = experts[0] * (row[0] / total)
    for weight, expert in zip(row[1:], experts[1:], strict=True):
        merged.add_(expert * (weight / total))
    return merged


def refused(row: tuple[float, ...], structure: Calibrated) -> str | None:
    """Statistics must be named, and say how much an error counts: never less than nothing."""
    if not structure.statistics:
        return "needs `statistics`, the folder that `mergeopt calibrate` wrote, but names none"
    if min(row) < 0 or not max(row) > 0:
        return f"weights must not be negative, nor all zero, but are {list(row)}"
    return None
