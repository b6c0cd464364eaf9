"""Whether an answer was cut by the limit of tokens."""

from typing import Literal

from evaluators.measures.measure import Answer, Measure, Measured, each


class Truncated(Measure):
    """1 where the model would have gone on writing; an answer that ended at a stop string was not cut."""

    measure: Literal["truncated"] = "truncated"

    def open(self) -> Measured:
        return each(truncated)


def truncated(answer: Answer) -> float:
    return float(answer.ended == "length")
