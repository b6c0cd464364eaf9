"""Keep several processors busy: one tensor to a thread, and torch on one thread in each."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
