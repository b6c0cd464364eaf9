"""Keep several processors busy: one tensor to a thread, and torch on one thread in each."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, torch computes an operation on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pool_of(threads: int) -> ThreadPoolExecutor:
    """Threads in each of which torch computes on that one alone."""
    return ThreadPoolExecutor(threads, "mergeopt", torch.set_num_threads, (1,))


class Ahead:
    """Calls a function of one item after the other, some at a time, and gives the results in the items' order."""

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        """Twice as many items as there are threads are under way, and in memory."""
        self._pool, self._most = pool, 2 * threads if threads > 1 else 0

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        if not self._most:
            yield from map(function, items)
            return
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) == self._most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The function's results in the items' order, of as many calls at a time as torch may use threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        return [function(item) for item in items]
    with torch_threads(1), pool_of(threads) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
