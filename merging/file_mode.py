"""Files that a library made for this user alone, opened to those that a new file is open to."""

import os
from pathlib import Path


def as_new(file: Path) -> None:
    """Give a file the mode that a new one would have here, by the process's umask."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
