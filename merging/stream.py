"""Carry out the steps of a merge, several at a time, and hand every piece on as it is made."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from threading import Condition, Event

import torch
from torch import Tensor

from merging.beside import can_share, share
from merging.errors import MergeError
from merging.pieces import PIECE
from merging.step import Step
from merging.threads import pool_of, processors, torch_threads

Write = Callable[[str, int, Tensor], None]
"""Takes a tensor's name, the number of an entry, and the entries from there on, which are gone afterwards."""
Progress = Callable[[int, int], None]
"""Told how many tensors are done, and how many there are."""
_MUCH = 1 << 25  # entries: a tenth of a second and more, beside which forking is nothing


def stream(
    steps: Sequence[Step],
    write: Write,
    threads: int | None = None,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> None:
    """Carry out every step, piece by piece into `write`; the bits do not depend on `threads`, nor on the order.

    `threads`: how many steps are under way at a time, as many as there are processors by default; torch computes each
    on one thread. Where there is much to do and all of it in pieces, they are in processes, and `write` must write to
    files that are open (see `merging.beside`). Steps that need whole tensors in float32 wait for each other, so that
    together they take no more memory than the largest does. `device`: where torch computes (`cpu`, `cuda`, or `auto`:
    `cuda` where there is one). `on_progress` is called from the caller's thread. Raises what a step raises, once those
    under way have stopped.
    """
    device = found_device(device)
    threads = min(threads or processors(), max(1, len(steps)))
    with torch_threads(1):
        if threads == 1:
            for done, step in enumerate(steps, start=1):
                _carry_out(step, write, device, lambda: True)
                if on_progress is not None:
                    on_progress(done, len(steps))
            return
        entries = sum(math.prod(step.shape) for step in steps)
        if can_share() and device == "cpu" and entries >= _MUCH and not any(step.memory for step in steps):
            _in_processes(steps, write, threads, on_progress)
        else:
            _side_by_side(steps, write, threads, device, on_progress)


def found_device(device: str) -> str:
    """A device that torch has. Raises `MergeError` where it has no such."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise MergeError(f"the device `{device}` must be there, but torch finds no GPU; use `cpu` or `auto`.")
    if device != "cpu" and not device.startswith("cuda"):
        raise MergeError(f"a device must be `cpu`, `cuda` or `auto`, but is `{device}`.")
    return device


def _in_processes(steps: Sequence[Step], write: Write, processes: int, on_progress: Progress | None) -> None:
    """The largest first, so that no process is left with a large one at the end."""
    order = _largest_first(steps)
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(order))

    share(len(order), lambda job, alive: _carry_out(order[job], write, "cpu", alive), processes, one_more)


def _largest_first(steps: Sequence[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: math.prod(step.shape), reverse=True)


def _side_by_side(steps: Sequence[Step], write: Write, threads: int, device: str, on_progress: Progress | None) -> None:
    gate = _Gate(max(step.memory for step in steps))
    stop = Event()

    def carry_out(step: Step) -> None:
        with gate.room(step.memory, stop):
            _carry_out(step, write, device, lambda: not stop.is_set())

    with pool_of(threads) as pool:
        futures: list[Future[None]] = [pool.submit(carry_out, step) for step in _largest_first(steps)]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if on_progress is not None:
                    on_progress(done, len(steps))
        except BaseException:
            stop.set()
            gate.wake()
            pool.shutdown(cancel_futures=True)
            raise


@torch.no_grad()
def _carry_out(step: Step, write: Write, device: str, wanted: Callable[[], bool]) -> None:
    buffer = torch.empty(min(PIECE, math.prod(step.shape)), dtype=step.dtype)
    for start, piece in step.filled(lambda start, end: buffer[: end - start], device=device):
        if not wanted():
            return
        write(step.name, start, piece)


class _Gate:
    """Lets steps in while what they need together stays within a number of bytes."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._changed = Condition()

    @contextmanager
    def room(self, size: int, stop: Event) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size or stop.is_set())
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
