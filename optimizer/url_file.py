"""The database's URL in a file that coordinators of this user read: Ray would show it in arguments and environments."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "mergeopt-serve-"
_NAME = "database"


@contextmanager
def url_file(url: str) -> Iterator[Path]:
    """A file with the URL, which may hold a password, for as long as the block lasts; only this user can read it.

    A lock on it shows that its process lives. What killed ones have left of this user's is removed before.
    """
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        file = Path(folder) / _NAME
        file.touch(mode=0o600)
        with file.open("w", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(url)  # behind the lock: nobody sweeps a file that is empty
            stream.flush()
            yield file


def _sweep() -> None:
    for file in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_NAME}"):
        with suppress(OSError):  # another user's, gone meanwhile, or locked by a process that lives
            if file.parent.lstat().st_uid != os.getuid() or file.parent.is_symlink():
                continue
            with file.open() as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if file.stat().st_size:
                    shutil.rmtree(file.parent, ignore_errors=True)
