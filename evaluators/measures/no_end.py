"""Whether an answer lacks its end token."""

from typing import Literal

from evaluators.measures.measure import Answer, Measure, Measured, each


class NoEnd(Measure):
    """1 where the model did not end its turn itself: cut by the limit, or only by a stop string.

    Without stop strings it is the same as `truncated`.
    """

    measure: Literal["no_end"] = "no_end"

    def open(self) -> Measured:
        return each(no_end)


def no_end(answer: Answer) -> float:
    return float(answer.ended != "end")
