"""Keep the tokens of a job's strings on disk, so that one process tokenizes them and the others read them."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

_FILES = 64  # sets of strings that are kept, the ones used last


def store_folder() -> Path:
    """`$XDG_CACHE_HOME/mergeopt/tokens`, under `~/.cache` where that is not set."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "mergeopt" / "tokens"


def tokenizer_identity(tokenizer: Any) -> str | None:
    """A hash of everything a fast tokenizer does; None for others, whose tokens are not kept."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    return hashlib.sha256(backend.to_str().encode()).hexdigest()


def stored_tokens(
    strings: Sequence[str],
    identity: str | None,
    encode: Callable[[Sequence[str]], list[list[int]]],
    folder: Path | None = None,
) -> list[list[int]]:
    """The tokens of every string, from the store where these strings are in it, else from `encode`.

    `identity` names tokenizer and options. A file that cannot be read is made again; a folder that cannot be written
    to costs the next process its time and nothing else.
    """
    if identity is None or not strings:
        return encode(strings)
    file = (folder or store_folder()) / f"{_key(strings, identity)}.safetensors"
    found = _read(file, len(strings))
    if found is None:
        found = encode(strings)
        _write(file, found)
    return found


def _key(strings: Sequence[str], identity: str) -> str:
    whole = hashlib.sha256(identity.encode())
    for string in strings:
        encoded = string.encode("utf-8", "surrogatepass")
        whole.update(len(encoded).to_bytes(8, "big") + encoded)
    return whole.hexdigest()


def _read(file: Path, count: int) -> list[list[int]] | None:
    try:
        content = load_file(file)
        tokens, ends = content["tokens"].tolist(), content["ends"].tolist()
        os.utime(file)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    if len(ends) != count or (ends and ends[-1] != len(tokens)):
        return None
    return [tokens[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _write(file: Path, rows: list[list[int]]) -> None:
    """Beside, then renamed: a file that is there is whole."""
    tokens = np.array([token for row in rows for token in row], np.int32)
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, suffix=".partial")
        os.close(descriptor)
        try:
            save_file({"tokens": tokens, "ends": ends}, temporary)
            os.replace(temporary, file)
        finally:
            Path(temporary).unlink(missing_ok=True)
        _forget_old(file.parent)
    except OSError:
        return


def _forget_old(folder: Path) -> None:
    kept = sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in kept[_FILES:]:
        file.unlink(missing_ok=True)
