"""Who holds a lease: a process, named so that another one on the same machine can tell whether it lives."""

import os
import socket
import uuid
from pathlib import Path


def new_owner() -> str:
    """A name for this process as a holder of leases: `host:pid:uuid`."""
    return f"{_host()}:{os.getpid()}:{uuid.uuid4().hex}"


def _host() -> str:
    """This machine and process namespace: two containers may share a host name, but not their process ids."""
    namespace = Path("/proc/self/ns/pid")
    suffix = f"/{namespace.readlink().name.strip('pid:[]')}" if namespace.is_symlink() else ""
    return socket.gethostname() + suffix


def is_gone(owner: str | None) -> bool:
    """Whether the owner was a process of this machine and is dead; one elsewhere counts as alive."""
    host, _, pid = (owner or "").rpartition(":")[0].rpartition(":")
    if host != _host() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # another user's, and alive
    return _is_zombie(int(pid))


def _is_zombie(pid: int) -> bool:
    """Whether the process was killed and is only waiting to be collected by its parent."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[:1] == ["Z"]
