"""What processes hold in memory."""

import os
from pathlib import Path


def anonymous(pid: int | None = None) -> int:
    """Bytes of a process, this one where None, that are not mapped files (Linux); 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def children() -> list[int]:
    """The processes that the first thread of this one has started."""
    try:
        found = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in found.split()]
