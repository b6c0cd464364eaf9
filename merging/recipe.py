"""What determines merged weights, and nothing else."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from merging.frozen import Frozen
from merging.groups import MODULES
from merging.numbers import Number, Whole

Structure = dict[str, bool | int | float | str | tuple[Number, ...]]
"""A method's own settings; a tuple holds one number per expert."""
DType = Literal["float32", "bfloat16", "float16"]


def _modules(names: tuple[str, ...]) -> tuple[str, ...]:
    for index, name in enumerate(names):
        if name not in MODULES:
            raise ValueError(f"names modules, each one of {', '.join(MODULES)}, but has {name!r}")
        if name in names[:index]:
            raise ValueError(f"names each module once, but has {name!r} twice")
    return names


Unmerged = Annotated[tuple[str, ...], AfterValidator(_modules)]
"""Modules (`merging.groups.MODULES`) that are left out of a merge."""


class Source(Frozen):
    """One model that goes into a merge.

    `path` is a local folder or a Hugging Face Hub id, `revision` a Hub branch, tag or commit. `fingerprint`
    is the hash of the weights themselves (see `merging.checkpoint`); once it is known, the location no longer
    matters.
    """

    path: str
    revision: str | None = None
    fingerprint: str | None = None

    def shown(self, folder: Path, from_hub: bool) -> str:
        """A Hub id, or a local folder's own name: where it lay on somebody's disk is nobody's business."""
        return self.path if from_hub else folder.resolve().name

    def identity(self) -> list[str | None]:
        """What the source contributes to a recipe's digest."""
        if self.fingerprint is not None:
            return [self.fingerprint]
        return [self.path, self.revision]


class Visit(Frozen):
    """One layer of the result: layer number `layer` of the merge, or of one model as it is.

    `source` is `base` or an expert's name, None for the merge. What the layer adds to the residual stream is multiplied
    by `scale`.
    """

    layer: Whole
    source: str | None = None
    scale: Number = 1.0

    def in_words(self, digits: int = 6) -> str:
        """`1`, or `1 of math at 0.62`; the scale with so many significant digits."""
        place = f"{self.layer} of {self.source}" if self.source is not None else str(self.layer)
        return place if self.scale == 1 else f"{place} at {self.scale:.{digits}g}"


class Recipe(Frozen):
    """A merge, spelled out: one row of coefficients for every group of tensors.

    `coefficients` maps a group's name (`layer.12.attention`, see `merging.groups`) to one number per
    coefficient of the method, in the order of `merging.methods.METHODS[method].coefficients(experts)`: one
    per expert for most methods, the single `t` for `slerp`. `structure` holds the method's own settings
    (density, seed of masks excluded). `dtype` is the dtype of the merged tensors, the base's own where it is
    None. `unmerged` names modules whose tensors are not merged but taken from one model as they are (see
    `merging.alignment.reference_of`): task heads, above all, whose shapes may differ. `path` are the layers of the
    result one after the other; those of the models in their order where it is None. `statistics` is the hash of what a
    method with statistics reads (see `Sources.fingerprinted`); once it is known, where they lie no longer matters.
    """

    method: str
    base: Source | None = None
    experts: dict[str, Source]
    coefficients: dict[str, tuple[Annotated[float, Strict()], ...]]  # strict: `true` is not 1
    structure: Structure = Field(default_factory=dict)
    seed: int = 0
    dtype: DType | None = None
    unmerged: Unmerged = ()
    path: tuple[Visit, ...] | None = None
    statistics: str | None = None

    def digest(self) -> str:
        """Sixteen hexadecimal digits that two recipes share only if they give the same weights."""
        known = {"statistics": self.statistics} if self.statistics is not None else {}
        content = {
            "method": self.method,
            "base": self.base.identity() if self.base else None,
            # names count: random masks are seeded by them
            "experts": [[name, *source.identity()] for name, source in self.experts.items()],
            "coefficients": {group: list(row) for group, row in sorted(self.coefficients.items())},
            "structure": dict(sorted({**self.structure, **known}.items())),
            "seed": self.seed,
            "dtype": self.dtype,
            **({"unmerged": sorted(self.unmerged)} if self.unmerged else {}),
            **({"path": [[one.layer, one.source, one.scale] for one in self.path]} if self.path is not None else {}),
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
