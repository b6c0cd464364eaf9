"""Measures of generated answers, one file each."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from evaluators.measures.length import Length
from evaluators.measures.measure import Answer, Measure, Measured
from evaluators.measures.no_end import NoEnd
from evaluators.measures.repetition import Repetition
from evaluators.measures.toxicity import Toxicity
from evaluators.measures.truncated import Truncated

__all__ = ["Answer", "AnyMeasure", "Measure", "Measured"]


def _name_or_mapping(value: Any) -> Any:
    return {"measure": value} if isinstance(value, str) else value


AnyMeasure = Annotated[
    Annotated[Truncated | NoEnd | Repetition | Length | Toxicity, Field(discriminator="measure")],
    BeforeValidator(_name_or_mapping),
]
"""One entry of `measures`: a mapping, or its name alone."""
