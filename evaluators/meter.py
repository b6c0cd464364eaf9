"""Where a trial's time goes: seconds and tokens of each stage, added up."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["materialize", "forward", "generation", "metrics"]
STAGES: tuple[Stage, ...] = ("materialize", "forward", "generation", "metrics")


@dataclass
class Meter:
    """Wall seconds by stage, tokens the model was run on by stage, and the part of it all that is the floor.

    `forward` is everything done for log-likelihoods, `generation` for text; `tokens` counts what went through the
    model, padding left out. `model_seconds` is the part of both spent inside the model's own forward passes: what
    the trial would cost if nothing else had to be done.
    """

    seconds: dict[Stage, float] = field(default_factory=dict)
    tokens: dict[Stage, int] = field(default_factory=dict)
    model_seconds: float = 0.0

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Add the seconds that pass inside to a stage, also where it ends in an exception."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def model(self, name: Stage, tokens: int) -> Iterator[None]:
        """Add the seconds inside to the model's own, and the tokens to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.model_seconds += time.perf_counter() - started
            self.tokens[name] = self.tokens.get(name, 0) + tokens
