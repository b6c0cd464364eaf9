"""Notice that someone wants this process to stop, without dying in the middle of a write."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_requested(event: threading.Event | None = None) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set while the block lasts. A second SIGINT interrupts at once.

    Outside the main thread nothing is
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


@contextmanager
def interrupted_at_once(event: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event and raise `KeyboardInterrupt` while the block lasts: for long steps of others.

    The event tells what happened even where the exception is swallowed on its way.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.default_int_handler(number, frame)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
