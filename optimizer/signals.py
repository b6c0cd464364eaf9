"""Notice that someone wants this process to stop, without dying in the middle of a write."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requested(event: threading.Event | None = None) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set while the block lasts. A second SIGINT interrupts at once.

    Enter after `ray.init`, which installs a handler for SIGTERM of its own. Outside the main thread nothing is
    caught, and the event is never set. `event` is used where it is given, a new one otherwise.
    """
    event = event or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if event.is_set() and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
