"""How long an answer is."""

from typing import Literal, Self

from pydantic import model_validator

from evaluators.measures.measure import Answer, Measure, Measured, each

Unit = Literal["tokens", "words", "characters"]


class Length(Measure):
    """The answer's tokens, its words (what stands between blanks) or its characters.

    Neither long nor short is better by nature, so an objective needs a `direction`; a bound does not.
    """

    measure: Literal["length"] = "length"
    unit: Unit = "tokens"

    @model_validator(mode="after")
    def _aims_somewhere(self) -> Self:
        if self.objective is not None and self.direction is None:
            raise ValueError(
                "an answer's length is neither better high nor low, so an objective needs `direction: minimize` or "
                "`maximize`, but has none; add it, or give `length` only a `bound`"
            )
        return self

    @property
    def metric(self) -> str:
        return f"length_in_{self.unit}"

    @property
    def higher_is_better(self) -> bool:
        return self.direction == "maximize"

    def open(self) -> Measured:
        return each(lambda answer: length(answer, self.unit))


def length(answer: Answer, unit: Unit) -> float:
    if unit == "tokens":
        return float(len(answer.tokens))
    return float(len(answer.text.split()) if unit == "words" else len(answer.text))
