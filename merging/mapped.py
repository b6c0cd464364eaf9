"""A weight file in memory that is filled in place, for programs that read weights from a folder."""

import json
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

_FILE = "model.safetensors"
# safetensors' names for torch's dtypes
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


class MappedTensors(nn.Module):
    """Tensors backed by a safetensors file in memory: what is written to them is what a reader of the file finds.

    To be filled like any model's parameters (`LiveMerge`), every tensor under its own name. The file has no name but
    while `folder` is open: however the process ends, its memory is free again. It does not count to /dev/shm, which is
    small in containers. Linux only.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype]) -> None:
        """Tensors of these shapes and dtypes, all zero."""
        super().__init__()
        header, places, size = _layout(shapes, dtypes)
        self._file = os.fdopen(os.memfd_create("mergeopt-weights"), "r+b")
        self._file.truncate(len(header) + size)
        memory = mmap.mmap(self._file.fileno(), len(header) + size)
        memory[: len(header)] = header
        whole = torch.frombuffer(memory, dtype=torch.uint8)[len(header) :]
        self._tensors = {
            name: whole[start:end].view(dtypes[name]).view(shapes[name]) for name, (start, end) in places.items()
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


def _layout(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype]
) -> tuple[bytes, dict[str, tuple[int, int]], int]:
    """The file's header, where each tensor's bytes are behind it, and how many bytes there are.

    https://huggingface.co/docs/safetensors: the header's length, the header in JSON, tensors without a gap. Wide
    dtypes come first, so that every tensor is aligned.
    """
    places: dict[str, tuple[int, int]] = {}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes, key=lambda name: (-dtypes[name].itemsize, name)):
        start, end = end, end + math.prod(shapes[name]) * dtypes[name].itemsize
        places[name] = (start, end)
        code = _CODES[str(dtypes[name]).removeprefix("torch.")]
        entries[name] = {"dtype": code, "shape": list(shapes[name]), "data_offsets": [start, end]}
    content = json.dumps(entries).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content, places, end
