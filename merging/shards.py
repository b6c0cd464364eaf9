"""A model's weight files, written at known places: any tensor at any time, from any thread."""

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from merging.layout import Layout, layout_of
from merging.weight_files import SUFFIX, index_name

_BEHIND = 256 << 20  # bytes of a file that may wait for the disk before it is asked to take them


class Shards:
    """The weight files of a model whose names, shapes and dtypes are known; use it in a `with`.

    Headers are written at once, tensors where they belong as they come, and no file is ever in memory. The disk takes
    what is written while more is made, so that the end need not wait for all of it. At the end the files are on the
    disk, and an index is beside them if there are several.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, torch.dtype],
        max_bytes: int,
    ) -> None:
        """Files of at most `max_bytes`, or one tensor, named after `stem`; tensors are cut into them in the order of
        `shapes`. Raises `OSError`."""
        self._folder, self._stem = folder, stem
        self._sizes = {name: math.prod(shape) * dtypes[name].itemsize for name, shape in shapes.items()}
        cut = _cut(self._sizes, max_bytes)
        self._home: dict[str, int] = {name: number for number, names in enumerate(cut) for name in names}
        self._files = [_file_name(stem, number, len(cut)) for number in range(len(cut))]
        self._layouts = [layout_of({name: shapes[name] for name in names}, dtypes) for names in cut]
        self._open: list[int] = []
        self._waiting = [0] * len(cut)
        self._pid = os.getpid()
        self._lock = Lock()
        self._disk = ThreadPoolExecutor(1, "mergeopt-disk")
        self._taken: list[Future[None]] = []

    def __enter__(self) -> Self:
        try:
            for file, layout in zip(self._files, self._layouts, strict=True):
                self._open.append(_begun(self._folder / file, layout))
        except OSError:
            self._close()
            raise
        return self

    def write(self, name: str, start: int, piece: Tensor) -> None:
        """Write entries of a tensor, from entry number `start` on; `piece` is flat, of its dtype, and on the CPU.

        Raises `OSError` where the disk does, be it for earlier pieces.
        """
        home = self._home[name]
        array: Any = piece.view(torch.uint8).numpy()  # numpy's types do not tell that an array is a buffer
        content = memoryview(array)
        place = self._layouts[home].starts[name] + start * piece.dtype.itemsize
        while content:
            written = os.pwrite(self._open[home], content, place)
            content, place = content[written:], place + written
        self._count(home, piece.nbytes)

    def _count(self, home: int, size: int) -> None:
        """Ask the disk to take a file's bytes once there are many, one request at a time; whoever wrote them.

        A forked process does not ask: the disk tells of an error once, and who closes the file must hear it.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._waiting[home] += size
            if self._waiting[home] < _BEHIND or (self._taken and not self._taken[-1].done()):
                return
            self._waiting[home] = 0
            for earlier in self._taken:
                earlier.result()
            self._taken = [self._disk.submit(os.fdatasync, self._open[home])]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._disk.shutdown()
            if error is None:
                for earlier in self._taken:
                    earlier.result()
                for file in self._open:
                    os.fsync(file)
        finally:
            self._close()
        if error is None and len(self._files) > 1:
            homes = {name: self._files[home] for name, home in self._home.items()}
            index = {"metadata": {"total_size": sum(self._sizes.values())}, "weight_map": homes}
            text = json.dumps(index, indent=2) + "\n"
            (self._folder / index_name(self._stem)).write_text(text, encoding="utf-8")

    def _close(self) -> None:
        while self._open:
            os.close(self._open.pop())


def _cut(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    """The tensors of each file, in order."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _file_name(stem: str, number: int, count: int) -> str:
    part = "" if count == 1 else f"-{number + 1:05d}-of-{count:05d}"
    return f"{stem}{part}{SUFFIX}"


def _begun(path: Path, layout: Layout) -> int:
    """A file of its full size with nothing in it but the header, open for writing."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.truncate(file, layout.size)
        os.pwrite(file, layout.header, 0)
    except OSError:
        os.close(file)
        raise
    return file
