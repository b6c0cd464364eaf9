"""Where processes come from: one that has imported everything, and forks a part of the town when asked.

    python -m tests.chaos.nursery SOCKET [MODULE...]

A start costs milliseconds instead of the seconds that imports take, so that hundreds of kills fit into minutes. A part
is a process of its own in every other way, in a session of its own. All end with the nursery, and it with whoever holds
its standard input.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.chaos.sockets import ask, hear, listen_at

_PRELOADED = (
    "optimizer.run",
    "optimizer.serve",
    "optimizer.coordinate",
    "optimizer.report_html",
    "plotly.graph_objects",
    "tests.chaos.parts",
)
_PR_SET_PDEATHSIG = 1


class Nursery:
    """A nursery that ends with this process; `path` is where parts are asked for, `modules` are imported before."""

    def __init__(self, path: Path, modules: Sequence[str] = ()) -> None:
        self.path = path
        command = [sys.executable, "-m", "tests.chaos.nursery", str(path), *modules]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"the nursery ended {self._process.wait()}")

    def close(self) -> None:
        """End it, and with it every part."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def start(nursery: Path, part: str, log: Path, /, **arguments: Any) -> int:
    """Have a function of `tests.chaos.parts` run as a process that prints to `log`; its process id."""
    return int(ask(nursery, {"part": part, "log": str(log), "arguments": arguments}))


def code_of(nursery: Path, pid: int) -> int | None:
    """How a part ended, None while it lives: its exit code, or the signal that killed it below zero."""
    code: int | None = ask(nursery, {"pid": pid})
    return code


def _main(path: Path, modules: Sequence[str]) -> None:
    parts: Any = [import_module(name) for name in (*modules, *_PRELOADED)][-1]
    listener, codes = listen_at(path), dict[int, int | None]()

    def answer(question: dict[str, Any]) -> Any:
        if "pid" in question:
            return codes[question["pid"]]
        pid = os.fork()
        if pid == 0:
            listener.close()
            _be(parts, question)
        codes[pid] = None
        return pid

    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        hear(listener, 0.2, answer)
        for pid in [pid for pid, code in codes.items() if code is None]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
    for pid, code in codes.items():
        if code is None:
            os.kill(pid, signal.SIGKILL)


def _be(parts: Any, question: dict[str, Any]) -> None:
    """Never returns: this process is the part now."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        getattr(parts, question["part"])(**question["arguments"])
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
