"""Tell one kind of file from the others by its keys, where a command asks for another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.yaml_file import FileError

_KINDS = {
    "merge_method": ("a merge config of mergekit", "which `mergeopt merge` carries out"),
    "genome": ("a config of mergekit-evolve", "which `mergeopt import-evolve` makes a job file of"),
    "search": ("a job file", "which `mergeopt run` carries out"),
    "adapters": ("a recipe over adapters", "which `mergeopt merge-adapters` carries out"),
    "experts": ("a recipe", "which `mergeopt merge` carries out"),
}
"""What a file is that has this key at the top, and what it is for."""


def refuse_other_kinds(path: Path, content: Mapping[str, Any], wanted: str) -> None:
    """Raises `FileError` where the file has the key of another kind than `wanted`, and not that of this one."""
    found = {kind: purpose for key, (kind, purpose) in _KINDS.items() if key in content}
    if found and wanted not in found:
        kind, purpose = next(iter(found.items()))
        raise FileError(f"{path}: must be {wanted}, but is {kind}, {purpose}.")
