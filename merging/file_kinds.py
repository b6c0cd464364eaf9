"""Tell a config of mergekit or mergekit-evolve by its keys, where a command asks for another file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.yaml_file import FileError

_KINDS = {
    "merge_method": "a merge config of mergekit, which `mergeopt merge` carries out",
    "genome": "a config of mergekit-evolve, which `mergeopt import-evolve` makes a job file of",
}
"""By a top-level key that no other file has."""


def refuse_other_kinds(path: Path, content: Mapping[str, Any], wanted: str, own_key: str | None = None) -> None:
    """Raises `FileError` where the file is another one than `wanted`; `own_key` is what files of that kind have."""
    for key, kind in _KINDS.items():
        if key != own_key and key in content:
            raise FileError(f"{path}: must be {wanted}, but is {kind}.")
