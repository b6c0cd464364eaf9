"""Numbers as people write them: `1e-3`, which is text in YAML, is one, and `true` is none."""

from typing import Annotated, Any

from pydantic import BeforeValidator


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Number = Annotated[float, BeforeValidator(_no_truth)]
Whole = Annotated[int, BeforeValidator(_no_truth)]
