"""Where the time of trials went: seconds and tokens by stage, beside what the model's own passes took."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from optimizer.scorer import Finished

STAGES = ("materialize", "forward", "generation", "metrics", "other")


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Cost:
    """Worker seconds by stage, tokens the model was run on by stage, and the seconds inside its forward passes.

    `forward` is what log-likelihoods took, `generation` what answers in writing did, `other` what no stage claims.
    `model_seconds` is the floor: what the same tokens would have cost with nothing else to do.
    """

    seconds: dict[str, float]
    tokens: dict[str, int]
    model_seconds: float

    @property
    def total(self) -> float:
        """All worker seconds."""
        return sum(self.seconds.values())

    @property
    def above_floor(self) -> float:
        """The share of the seconds that were not forward passes, 0 to 1."""
        return max(0.0, 1 - self.model_seconds / self.total) if self.total > 0 else 0.0


def cost_of(finished: Finished) -> dict[str, object]:
    """A round's cost as plain JSON, for a trial's attributes."""
    return {
        "seconds": {name: round(value, 4) for name, value in finished.seconds.items()},
        "tokens": dict(finished.tokens),
        "model_seconds": round(finished.model_seconds, 4),
    }


def cost_attributes(finished: Finished) -> dict[str, object]:
    """A trial's attributes on its cost: the whole, which reports read, and numbers that the dashboard can plot.

    Nothing for outcomes of an earlier attempt, which come without their cost.
    """
    if not finished.seconds:
        return {}
    return {
        "cost": cost_of(finished),
        "tokens": sum(finished.tokens.values()),
        "model seconds": round(finished.model_seconds, 4),
    }


def summed(costs: Iterable[Cost]) -> Cost | None:
    """The cost of all together, stages in their order; None where there is none."""
    found = list(costs)
    if not found:
        return None
    return Cost(
        seconds={stage: sum(one.seconds.get(stage, 0.0) for one in found) for stage in STAGES},
        tokens={stage: sum(one.tokens.get(stage, 0) for one in found) for stage in STAGES},
        model_seconds=sum(one.model_seconds for one in found),
    )


def in_words(cost: Cost) -> str:
    """The share above the floor, in one sentence."""
    tokens = sum(cost.tokens.values())
    speed = f", {tokens / cost.model_seconds:,.0f} tokens a second" if cost.model_seconds > 0 and tokens else ""
    return (
        f"Of {cost.total:,.1f} worker seconds the model's own forward passes took {cost.model_seconds:,.1f}{speed}; "
        f"{cost.above_floor:.1%} went into everything else."
    )
