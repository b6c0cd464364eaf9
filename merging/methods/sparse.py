"""Settings that the sparse methods share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from merging.frozen import Frozen
from merging.methods.arithmetic import Average
from merging.methods.searchable import Range

Share = Annotated[float, Field(gt=0, le=1)]
Shares = Share | tuple[Share, ...]
"""One number for all experts, or one for each in the recipe's order."""


class Sparse(Frozen):
    """What every sparse method can be told: a scale, and to do as mergekit does."""

    scale: Annotated[float, Range(0.3, 2)] = Field(
        default=1.0, description="lambda: the merged difference from the base is multiplied by it"
    )
    compat: Literal["paper", "mergekit"] = Field(
        default="paper",
        description="`mergekit` sets what is not set otherwise to mergekit's behaviour, counts and ties included",
    )
    as_mergekit: ClassVar[Mapping[str, Any]] = {}
    """The settings that `compat: mergekit` stands for."""

    @model_validator(mode="before")
    @classmethod
    def _settings_of_mergekit(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("compat") == "mergekit":
            return {**cls.as_mergekit, **given}
        return given


class Elected(Frozen):
    """What methods that elect signs can be told."""

    average: Average = Field(
        default="count",
        description="divide the sum of those that agree by their `count` (the paper), the sum of their `weights` "
        "(mergekit's `normalize: true`), or leave it a `sum` (mergekit's `normalize: false`)",
    )


class Rescaled(Frozen):
    """What methods that drop entries at random can be told."""

    rescale: Literal["inverse", "norm", "none"] = Field(
        default="inverse",
        description="divide what is kept by its chance (the paper), bring the tensor's sum of magnitudes back to "
        "what it was (`norm`, mergekit's), or leave it",
    )


def one_per_expert(row: tuple[float, ...], structure: Frozen) -> str | None:
    """Settings with a number for each expert must have as many as there are weights (`Method.row_error`)."""
    for name in type(structure).model_fields:
        value = getattr(structure, name)
        if isinstance(value, tuple) and len(value) != len(row):
            return f"`{name}` must be one number, or one per expert, but has {len(value)} for {len(row)} experts"
    return None
