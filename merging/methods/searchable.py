"""Which settings of a method a search may vary, and over what: declared where the setting is."""

import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from merging.frozen import Frozen


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log` for settings whose ratios matter, `whole` for counts.

    Stands in the annotation of a setting: `density: Annotated[float, Range(0.02, 1, log=True)] = 0.2`. It is where a
    search looks when a job file says `density: search`, and may be narrower than what the method accepts.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Choices:
    """One of these values."""

    options: tuple[bool | int | float | str, ...]


def searchable(structure: type[Frozen]) -> dict[str, Range | Choices]:
    """The settings of a method that can be searched: those with a `Range`, and those that are one of a few values."""
    found: dict[str, Range | Choices] = {}
    for name, field in structure.model_fields.items():
        declared = next((one for one in field.metadata if isinstance(one, Range | Choices)), None)
        options = declared or _few_values(field.annotation)
        if options is not None:
            found[name] = options
    return found


def _few_values(annotation: Any) -> Choices | None:
    if annotation is bool:
        return Choices((False, True))
    if get_origin(annotation) is Literal:
        return Choices(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for part in get_args(annotation) if (found := _few_values(part)) is not None), None)
    return None
