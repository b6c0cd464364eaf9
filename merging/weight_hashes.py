"""Hash a weight file, whole and tensor by tensor, at one reading."""

import hashlib
import json
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20  # bytes that are read at a time: both hashes find them in the cache


def weight_hashes(file: Path) -> dict[str, Any]:
    """The sha256 of a safetensors file as `sha256`, and of each tensor's bytes, by its name, as `tensors`.

    The file must have been found whole (`merging.checkpoint.read_header`).
    """
    whole = hashlib.sha256()
    tensors: dict[str, str] = {}
    buffer = memoryview(bytearray(_BLOCK))
    with file.open("rb", buffering=0) as stream:
        length = stream.read(8)
        header = stream.read(int.from_bytes(length, "little"))
        whole.update(length + header)
        place = 0
        for name, (_, stop) in _in_order(header):
            tensor = hashlib.sha256()
            while place < stop:
                block = buffer[: stream.readinto(buffer[: min(_BLOCK, stop - place)])]
                if not block:
                    raise OSError(f"{file}: ends at byte {place} of its tensors, but `{name}` goes up to {stop}.")
                whole.update(block)
                tensor.update(block)
                place += len(block)
            tensors[name] = tensor.hexdigest()
        while read := stream.readinto(buffer):
            whole.update(buffer[:read])
    return {"sha256": whole.hexdigest(), "tensors": tensors}


def _in_order(header: bytes) -> list[tuple[str, tuple[int, int]]]:
    """The tensors as they lie behind the header, without holes: the first byte of each, and the one behind its last."""
    facts: dict[str, Any] = json.loads(header)
    facts.pop("__metadata__", None)
    places = {name: (int(one["data_offsets"][0]), int(one["data_offsets"][1])) for name, one in facts.items()}
    return sorted(places.items(), key=lambda item: item[1])
