"""Zoos of tiny models trained here: level L1."""

from pathlib import Path

from benchmarks.search.zoo.kinds import ZOOS
from benchmarks.search.zoo.merged import MergedZoo
from benchmarks.search.zoo.train import trained

HOME = Path(__file__).parents[1] / ".zoos"


def open_zoo(name: str, folder: Path = HOME, seed: int = 0) -> MergedZoo:
    """The zoo of that name, trained first where it is not there. Raises `KeyError` for an unknown name."""
    kind = ZOOS[name]
    return MergedZoo(name, kind, trained(kind, folder, seed), seed)
