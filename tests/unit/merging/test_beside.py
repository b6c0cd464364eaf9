"""Jobs that are shared with forked processes are all done, once, and what goes wrong in one of them is heard."""

import errno
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from merging.beside import Alive, can_share, share
from merging.errors import MergeError
from merging.methods import METHODS, At
from merging.step import Step
from merging.stream import stream

pytestmark = pytest.mark.skipif(not can_share(), reason="needs Linux")


def nothing() -> None:
    pass


def children() -> set[int]:
    """Of this process, dead ones that nobody waited for included; other tests may have left a server running."""
    return {child.pid for child in psutil.Process().children()}


def test_every_job_is_done_once_and_heard_of_by_several_processes(tmp_path: Path) -> None:
    heard, before = [], children()

    def do(job: int, alive: Alive) -> None:
        assert alive()
        with (tmp_path / str(job)).open("x") as file:
            file.write(str(os.getpid()))
        time.sleep(0.005)

    share(200, do, 3, lambda: heard.append(os.getpid()))
    workers = [(tmp_path / str(job)).read_text() for job in range(200)]
    assert len(dict.fromkeys(workers)) == 3
    assert heard == [os.getpid()] * 200
    assert children() == before, "nobody is left behind"


def test_no_job_is_done_twice_by_processes_that_ask_at_once(tmp_path: Path) -> None:
    done = os.open(tmp_path / "done", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def do(job: int, alive: Alive) -> None:  # noqa: ARG001
        os.write(done, b"%d\n" % job)

    share(30_000, do, 4, nothing)
    os.close(done)
    assert sorted(map(int, (tmp_path / "done").read_text().split())) == list(range(30_000))


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MergeError("`layer.3` must be finite"), "must be finite"),
        (OSError(errno.ENOSPC, "No space left on device", "model.safetensors"), "No space left on device"),
        (ZeroDivisionError("a fault"), "a fault"),
    ],
)
def test_an_error_of_any_process_is_raised_and_ends_the_others(error: Exception, told: str, here: bool) -> None:
    own, before = os.getpid(), children()

    def do(job: int, alive: Alive) -> None:  # noqa: ARG001
        if (os.getpid() == own) == here:
            raise error
        time.sleep(0.01)

    with pytest.raises(type(error) if here or not isinstance(error, ZeroDivisionError) else RuntimeError) as caught:
        share(100_000, do, 3, nothing)
    assert told in str(caught.value)
    if isinstance(caught.value, OSError):
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "model.safetensors")
    assert children() == before


def test_a_process_that_is_killed_fails_the_merge_with_the_signal_named() -> None:
    own = os.getpid()

    def do(job: int, alive: Alive) -> None:  # noqa: ARG001
        if os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)

    with pytest.raises(MergeError, match="ended with -9"):
        share(100, do, 2, nothing)


def test_who_shares_jobs_and_dies_leaves_nobody_at_work(tmp_path: Path) -> None:
    """The helper of a process that is gone stops in the middle of a job."""
    started, stopped = tmp_path / "started", tmp_path / "stopped"

    def do(job: int, alive: Alive) -> None:  # noqa: ARG001
        if os.getpid() == first:
            wait_for(started.exists)
            os.kill(first, signal.SIGKILL)
        started.touch()
        wait_for(lambda: not alive())
        stopped.touch()

    first = os.fork()
    if first == 0:
        first = os.getpid()
        try:
            share(2, do, 2, nothing)
        finally:
            os._exit(1)
    os.waitpid(first, 0)
    wait_for(stopped.exists)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_large_merge_in_several_processes_has_the_bytes_of_one(tmp_path: Path) -> None:
    size, count = 5_000_011, 8
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(size, generator=generator).bfloat16()
    tuned = [torch.randn(size, generator=generator).mul_(0.1).add_(base).bfloat16() for _ in range(2)]
    method = METHODS["dare_ties"]
    steps = [
        Step(
            name=f"tensor.{number}",
            shape=(size,),
            dtype=torch.bfloat16,
            method=method,
            at=At(f"tensor.{number}", ("one", "two"), (0.5, 0.1 * number), method.structure()),
            base=lambda: base,
            tuned=tuple(partial(Tensor.view, one, size) for one in tuned),
        )
        for number in range(count)
    ]

    def written(threads: int) -> tuple[bytes, list[tuple[int, int]]]:
        told: list[tuple[int, int]] = []
        file = os.open(tmp_path / str(threads), os.O_RDWR | os.O_CREAT)

        def write(name: str, start: int, piece: Tensor) -> None:
            place = 2 * (size * int(name.rpartition(".")[2]) + start)
            assert os.pwrite(file, bytes(piece.view(torch.uint8).numpy()), place) == piece.nbytes

        stream(steps, write, threads, on_progress=lambda done, all_of_them: told.append((done, all_of_them)))
        os.close(file)
        return (tmp_path / str(threads)).read_bytes(), told

    alone, together = written(1), written(3)
    assert together == alone
    assert alone[1] == [(number, count) for number in range(1, count + 1)]
