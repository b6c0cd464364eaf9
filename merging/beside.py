"""Share a list of jobs with forked processes: each job is done once, by whoever is free.

Between two operations of torch Python lets one thread run at a time, and operations on pieces that fit the cache are
short: two threads made merges 1.2 to 1.3 times as fast as one, two processes 1.8 times.
"""

import fcntl
import json
import os
import select
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

from merging.errors import CheckpointError, MergeError

Alive = Callable[[], bool]
"""Whether the process that shares its jobs is still there; whoever is not should stop in the middle of one."""
Do = Callable[[int, Alive], None]
_NUMBER = struct.Struct("<q")
_ERRORS: dict[str, type[Exception]] = {one.__name__: one for one in (MergeError, CheckpointError)}


def can_share() -> bool:
    """Whether this system has what is needed."""
    return sys.platform == "linux"


def share(jobs: int, do: Do, processes: int, on_done: Callable[[], None]) -> None:
    """Do the jobs 0 to `jobs` - 1 in order, in this process and in others forked from it; all end with this call.

    Forked ones have all that this one has, and nothing of theirs comes back: `do` must write to files that are open.
    `on_done` is called here for each job. Raises what a job raises in any of them, other errors than `MergeError`,
    `CheckpointError` and `OSError` as `RuntimeError`; the rest is then given up.
    """
    queue = _queue(jobs)
    helpers: list[_Helper] = []
    try:
        helpers.extend(_forked(queue, do) for _ in range(min(processes, jobs) - 1))
        while (job := _next(queue)) is not None:
            do(job, lambda: True)
            on_done()
            for helper in helpers:
                helper.hear(on_done, wait=False)
        for helper in helpers:
            helper.hear(on_done, wait=True)
    finally:
        for helper in helpers:
            helper.end()
        os.close(queue)


def _queue(jobs: int) -> int:
    """The jobs' numbers in a file whose place all processes share: reading one takes it away from the others."""
    queue = os.memfd_create("mergeopt-jobs")
    content = b"".join(map(_NUMBER.pack, range(jobs)))
    while content:
        content = content[os.write(queue, content) :]
    os.lseek(queue, 0, os.SEEK_SET)
    return queue


def _next(queue: int) -> int | None:
    """A lock of each process's own: reading takes none on a file in memory, and two could get the same number."""
    fcntl.lockf(queue, fcntl.LOCK_EX)
    try:
        taken = os.read(queue, _NUMBER.size)
    finally:
        fcntl.lockf(queue, fcntl.LOCK_UN)
    return int(_NUMBER.unpack(taken)[0]) if taken else None


class _Helper:
    """A forked process, seen from the one that forked it. It says a line for every job, the last of them its error."""

    def __init__(self, pid: int, said: int) -> None:
        self._pid, self._said = pid, said
        self._line = b""
        self._running = True

    def hear(self, on_done: Callable[[], None], *, wait: bool) -> None:
        """What it has said by now, or, with `wait`, will have said at its end. Raises the error that it had."""
        while self._running and (wait or select.select([self._said], [], [], 0)[0]):
            heard = os.read(self._said, 1 << 16)
            *lines, self._line = (self._line + heard).split(b"\n")
            for line in lines:
                if line:
                    raise _as_error(json.loads(line))
                on_done()
            if not heard:
                self._ended()

    def _ended(self) -> None:
        self._running = False
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        if code:
            raise MergeError(
                f"a process that took part in the merge must end well, but ended with {code}; where that is -9, there "
                "was probably no memory left: use fewer threads."
            )

    def end(self) -> None:
        if self._running:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._said)


def _forked(queue: int, do: Do) -> _Helper:
    parent = os.getpid()
    hears, says = os.pipe()
    pid = os.fork()
    if pid:
        os.close(says)
        return _Helper(pid, hears)
    code = 1
    try:
        torch.set_num_threads(1)
        while (job := _next(queue)) is not None:
            do(job, lambda: os.getppid() == parent)
            os.write(says, b"\n")
        code = 0
    except BaseException as error:  # raised again in the process that forked this one
        os.write(says, json.dumps(_told(error)).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)  # nothing that the other process has begun is ended here: no handlers, no buffers


def _told(error: BaseException) -> dict[str, Any]:
    if isinstance(error, OSError):
        return {"kind": "OSError", "of": [error.errno, error.strerror, error.filename]}
    kind = type(error).__name__
    if kind in _ERRORS:
        return {"kind": kind, "of": [str(error)]}
    return {"kind": "RuntimeError", "of": ["".join(traceback.format_exception(error))]}


def _as_error(told: dict[str, Any]) -> Exception:
    kinds: dict[str, type[Exception]] = {**_ERRORS, "OSError": OSError, "RuntimeError": RuntimeError}
    return kinds[told["kind"]](*told["of"])
