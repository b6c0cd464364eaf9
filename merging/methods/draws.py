"""The random numbers behind masks: 16 bits for every entry of a tensor, and the same for a slice as for the whole."""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from merging.methods.method import At

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

BLOCK = 1 << 17
"""Entries that share a generator. Part of what a seed means: another size would give other masks."""
STEPS = 1 << 16
"""A draw is a whole number below this."""


def met(chance: float) -> float:
    """The chance that an entry is kept with: a multiple of one part in `STEPS`, and not zero."""
    return max(1, round(chance * STEPS)) / STEPS


def kept(at: At[Any], expert: int, count: int, chance: float) -> Tensor:
    """1.0 where an entry is kept and 0.0 where it is dropped, for `count` entries from `at.start` on; float32.

    Each is kept with the chance `met(chance)`.
    """
    return draws(at, expert, count).lt_(met(chance) * STEPS)


def draws(at: At[Any], expert: int, count: int) -> Tensor:
    """Those of `drawn` as float32, on the CPU."""
    import numpy as np
    import torch

    return torch.from_numpy(drawn(at, expert, count).astype(np.float32))


def drawn(at: At[Any], expert: int, count: int) -> NDArray[np.uint16]:
    """Whole numbers from 0 to `STEPS` - 1, each as likely, for `count` entries from `at.start` on; only to be read.

    Entries have their numbers by their place in the flattened tensor, in blocks. The generator of a block is numpy's
    SFC64, whose stream numpy keeps the same on every machine and in every version, and its state is the SHA-256 of the
    recipe's seed, the expert's name, the tensor's name and the number of the block. So a mask depends neither on the
    order of the models, nor on how a checkpoint is cut into files or a tensor into slices.
    """
    import numpy as np

    parts = []
    done = 0
    while done < count:
        block, skipped = divmod(at.start + done, BLOCK)
        taken = min(BLOCK - skipped, count - done)
        name = "\0".join([str(at.seed), at.experts[expert], at.tensor, str(block)])
        # slices that meet inside of a block are asked for one after the other
        if skipped or BLOCK / 2 <= taken < BLOCK:
            parts.append(_remembered(name)[skipped : skipped + taken])
        else:
            parts.append(_raw(name, taken))
        done += taken
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint16), *parts])


def _raw(name: str, count: int) -> NDArray[np.uint16]:
    """The first `count` numbers of a block."""
    import numpy as np

    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u8").astype(np.uint64)
    generator: Any = np.random.SFC64(_any_seed())
    generator.state = {"bit_generator": "SFC64", "state": {"state": words}, "has_uint32": 0, "uinteger": 0}
    raw: NDArray[np.uint16] = generator.random_raw((count + 3) // 4).view(np.uint16)
    return raw[:count]


@lru_cache(maxsize=32)
def _remembered(name: str) -> NDArray[np.uint16]:
    """All numbers of a block, 256 KiB; the last ones for several experts and threads."""
    return _raw(name, BLOCK)


@cache
def _any_seed() -> np.random.SeedSequence:
    """A generator wants a seed before it is given its state; spreading one out takes twice as long as the rest."""
    import numpy as np

    return np.random.SeedSequence(0)
