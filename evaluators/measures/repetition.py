"""How much of an answer repeats what it said before."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from evaluators.measures.measure import Answer, Measure, Measured, each


class Repetition(Measure):
    """The share of an answer's n-grams of tokens that stood in it before: seq-rep-n of Welleck et al. 2019.

    `threshold` makes it 1 where the share is above it, the answer has degenerated, and 0 elsewhere.
    """

    measure: Literal["repetition"] = "repetition"
    n: Annotated[int, Field(ge=1, strict=True)] = 4
    threshold: Annotated[float, Field(ge=0, lt=1)] | None = None

    @property
    def metric(self) -> str:
        return f"seq_rep_{self.n}" if self.threshold is None else f"seq_rep_{self.n}_above_{self.threshold:g}"

    def open(self) -> Measured:
        return each(self._of)

    def _of(self, answer: Answer) -> float:
        share = repeated_share(answer.tokens, self.n)
        return share if self.threshold is None else float(share > self.threshold)


def repeated_share(tokens: Sequence[int], n: int) -> float:
    """1 - distinct / all n-grams (seq-rep-n, arXiv 1908.04319); 0 where there are fewer than n tokens."""
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
