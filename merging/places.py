"""Where a path that someone wrote leads on this machine, if anywhere."""

from collections.abc import Iterable
from pathlib import Path


def found(path: str, starts: Iterable[Path] = (Path(),)) -> Path | None:
    """The first place below one of the folders that is there; None too where no file can be called so.

    `~` is somebody's home. What does not exist here may be a Hub id.
    """
    for start in starts:
        try:
            place = start / Path(path).expanduser()
            if place.exists():
                return place
        except (OSError, ValueError, RuntimeError):  # a name too long, a null character, `~` of nobody
            continue
    return None
