"""One question and one answer, as lines of JSON over a Unix socket: how the parts of a town talk."""

import json
import select
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 5.0


def ask(path: Path, question: dict[str, Any]) -> Any:
    """Put the question to whoever listens at `path`. Raises `OSError` where nobody answers."""
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(ANSWER_SECONDS)
        there.connect(str(path))
        there.sendall(json.dumps(question).encode() + b"\n")
        with there.makefile() as said:
            line = said.readline()
    if not line:
        raise ConnectionError(f"{path} hung up")
    return json.loads(line)


def listen_at(path: Path) -> socket.socket:
    """A socket that hears what is asked at `path`; a dead listener's is taken over."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    return listener


def hear(listener: socket.socket, seconds: float, answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer one question, if one comes within `seconds`."""
    if not select.select([listener], [], [], seconds)[0]:
        return
    there, _ = listener.accept()
    with there:
        there.settimeout(ANSWER_SECONDS)
        try:
            with there.makefile() as said:
                line = said.readline()
            if line:
                there.sendall(json.dumps(answer(json.loads(line))).encode() + b"\n")
        except OSError:  # whoever asked was killed meanwhile
            return
