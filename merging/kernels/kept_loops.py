"""Keep what was compiled for the next process: one file for each loop and set of argument types, whole or of no matter.

numba's own cache numbers its files in an index that nobody locks: two processes at once could leave one loop's code
under another's arguments, and a damaged file ended every merge.
"""

import hashlib
import os
import pickle
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import compiler, serialize

from merging.hash_cache import user_cache

_HASH = 32  # bytes
rebuild: Any = compiler.CompileResult._rebuild
pickled: Any = serialize.dumps


@cache
def place() -> Path:
    """A folder under the user's cache, by a hash of all loops: what one is compiled from may be in another's file."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    return user_cache().parent / "loops" / version


class KeptLoops:
    """What a dispatcher of numba asks of its cache. Files that cannot be read or written cost time, and no merge."""

    def __init__(self, function: Any) -> None:
        self._name = f"{function.__module__}.{function.__qualname__}"

    @property
    def cache_path(self) -> str:
        return str(place())

    def load_overload(self, signature: Any, target: Any) -> Any:
        """What was compiled for these types on such a processor; None where it was not, or the file is damaged."""
        target.refresh()
        key = self._key(signature, target.codegen())
        with suppress(Exception):  # whatever a damaged file, or one that may not be read, raises
            stored = self._file(key).read_bytes()
            content = stored[_HASH:]
            if hashlib.sha256(content).digest() == stored[:_HASH]:
                of, payload = pickle.loads(content)
                return rebuild(target, *payload) if of == key else None
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Beside, then renamed. Nothing is kept where the disk is full or cannot be written."""
        key = self._key(signature, compiled.codegen)
        content = pickled((key, compiled._reduce()))
        target = self._file(key)
        with suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(dir=target.parent, prefix=".loop.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(beside, target)
            except OSError:
                os.unlink(beside)

    def flush(self) -> None:
        """Nothing: files are found by what they hold."""

    def _key(self, signature: Any, codegen: Any) -> str:
        return repr((self._name, signature, codegen.magic_tuple(), numba.__version__, sys.version_info[:2]))

    def _file(self, key: str) -> Path:
        return place() / hashlib.sha256(key.encode()).hexdigest()[:32]
