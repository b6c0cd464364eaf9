"""A network that can be cut: forwards TCP to a server, and stops doing so when it is told to."""

import select
import socket
import threading
from contextlib import suppress


class Proxy:
    """Forwards connections to a port of this machine, from a port of its own.

    While it is `held`, what is sent waits on the way and arrives later, as where a link is down for a while. `cut`
    breaks every connection and refuses new ones: what was sent may have arrived, the answer to it never does.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._open = threading.Event()
        self._open.set()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._forward, name="proxy", daemon=True)
        self._thread.start()

    def url(self, url: str) -> str:
        """The database's URL by way of this proxy."""
        return url.replace(f":{self._to}/", f":{self.port}/")

    def hold(self) -> None:
        """Nothing passes from now on."""
        self._open.clear()

    def cut(self) -> None:
        """Nothing passes from now on, and what there is breaks."""
        self._open.clear()
        with self._lock:
            for one in self._pairs:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Everything passes again."""
        self._open.set()

    def close(self) -> None:
        self._over.set()
        self._open.set()
        self._thread.join(timeout=10)
        self._listener.close()

    def _forward(self) -> None:
        while not self._over.is_set():
            if not self._open.wait(0.05):
                continue
            with self._lock:
                ends = list(self._pairs)
            for one in select.select([self._listener, *ends], [], [], 0.05)[0]:
                if not self._open.is_set():
                    break
                if one is self._listener:
                    self._accept()
                else:
                    self._pass_on(one)
        for one in list(self._pairs):
            self._part(one)

    def _accept(self) -> None:
        here, _ = self._listener.accept()
        try:
            there = socket.create_connection(("127.0.0.1", self._to), timeout=5)
        except OSError:
            here.close()
            return
        there.settimeout(None)
        with self._lock:
            self._pairs |= {here: there, there: here}

    def _pass_on(self, one: socket.socket) -> None:
        if one not in self._pairs:  # its other end was closed a moment ago
            return
        try:
            said = one.recv(65536)
            if said:
                self._pairs[one].sendall(said)
        except OSError:
            said = b""
        if not said:
            self._part(one)

    def _part(self, one: socket.socket) -> None:
        with self._lock:
            other = self._pairs.pop(one, one)
            self._pairs.pop(other, None)
        one.close()
        other.close()
