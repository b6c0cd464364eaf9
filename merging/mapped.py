"""A weight file in memory that is filled in place, for programs that read weights from a folder."""

import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from merging.layout import layout_of

_FILE = "model.safetensors"


class MappedTensors(nn.Module):
    """Tensors backed by a safetensors file in memory: what is written to them is what a reader of the file finds.

    To be filled like any model's parameters (`LiveMerge`), every tensor under its own name. The file has no name but
    while `folder` is open: however the process ends, its memory is free again. It does not count to /dev/shm, which is
    small in containers. Linux only.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype]) -> None:
        """Tensors of these shapes and dtypes, all zero."""
        super().__init__()
        layout = layout_of(shapes, dtypes)
        self._file = os.fdopen(os.memfd_create("mergeopt-weights"), "r+b")
        self._file.truncate(layout.size)
        memory = mmap.mmap(self._file.fileno(), layout.size)
        memory[: len(layout.header)] = layout.header
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        self._tensors = {
            name: whole[start : start + math.prod(shapes[name]) * dtypes[name].itemsize]
            .view(dtypes[name])
            .view(shapes[name])
            for name, start in layout.starts.items()
        }

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder with nothing in it but the file, `model.safetensors`, for other processes of this user as well."""
        with tempfile.TemporaryDirectory(prefix="mergeopt-weights-") as folder:
            (Path(folder) / _FILE).symlink_to(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")
            yield Path(folder)

    def state_dict(self, *_: Any, **__: Any) -> Any:
        """The live tensors by their names in the file."""
        return dict(self._tensors)
