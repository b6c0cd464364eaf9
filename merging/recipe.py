"""What determines merged weights, and nothing else."""

import hashlib
import json
from typing import Literal

from pydantic import Field

from merging.frozen import Frozen

Structure = dict[str, bool | int | float | str]
DType = Literal["float32", "bfloat16", "float16"]


class Source(Frozen):
    """One model that goes into a merge.

    `path` is a local folder or a Hugging Face Hub id, `revision` a Hub branch, tag or commit. `fingerprint`
    is the hash of the weights themselves (see `merging.checkpoint`); once it is known, the location no longer
    matters.
    """

    path: str
    revision: str | None = None
    fingerprint: str | None = None

    def identity(self) -> list[str | None]:
        """What the source contributes to a recipe's digest."""
        if self.fingerprint is not None:
            return [self.fingerprint]
        return [self.path, self.revision]


class Recipe(Frozen):
    """A merge, spelled out: one row of coefficients for every group of tensors.

    `coefficients` maps a group's name (`layer.12.attention`, see `merging.groups`) to one number per
    coefficient of the method, in the order of `merging.methods.METHODS[method].coefficients(experts)`: one
    per expert for most methods, the single `t` for `slerp`. `structure` holds the method's own settings
    (density, seed of masks excluded). `dtype` is the dtype of the merged tensors, the base's own where it is
    None.
    """

    method: str
    base: Source | None = None
    experts: dict[str, Source]
    coefficients: dict[str, tuple[float, ...]]
    structure: Structure = Field(default_factory=dict)
    seed: int = 0
    dtype: DType | None = None

    def digest(self) -> str:
        """Sixteen hexadecimal digits that two recipes share only if they give the same weights."""
        content = {
            "method": self.method,
            "base": self.base.identity() if self.base else None,
            # names count: random masks are seeded by them
            "experts": [[name, *source.identity()] for name, source in self.experts.items()],
            "coefficients": {group: list(row) for group, row in sorted(self.coefficients.items())},
            "structure": dict(sorted(self.structure.items())),
            "seed": self.seed,
            "dtype": self.dtype,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
