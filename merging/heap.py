"""Keep memory that is freed between two pieces of a tensor in the process, to be used by the next."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_MMAP = 32 << 20  # the most that glibc takes
_TRIM = 64 << 20


@cache
def keep_freed_memory() -> bool:
    """Let glibc keep up to 64 MiB that were freed, and take blocks below 32 MiB from there; once for the process.

    By default a block of 128 KiB may go back to the system when it is freed, and every page of the next one is then
    cleared and mapped anew: a sum of three task vectors, piece by piece, took nine times as long. Larger blocks still
    go back at once, so that no tensor stays behind. Returns False, and does nothing, where there is no such allocator.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MMAP)) and bool(mallopt(_TRIM_THRESHOLD, _TRIM))
