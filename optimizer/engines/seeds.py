"""Seeds from the job's seed and a purpose."""

import hashlib
import json


def seed_for(seed: int, *purpose: str | int) -> int:
    """A number in [0, 2**32), the same on every machine for the same job seed and purpose."""
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
