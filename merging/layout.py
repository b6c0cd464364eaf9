"""Where each tensor's bytes stand in a safetensors file, known before there are any."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

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


@dataclass(frozen=True)
class Layout:
    """How the file begins, each tensor's first byte counted from the file's, and how many bytes there are in all."""

    header: bytes
    starts: dict[str, int]
    size: int


def layout_of(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, torch.dtype]) -> Layout:
    """A file of the tensors in `shapes`, one behind the other.

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
    header = len(content).to_bytes(8, "little") + content
    return Layout(header, {name: len(header) + start for name, (start, _) in places.items()}, len(header) + end)
