"""Compiled loops give the bits that torch's separate operations give, and refuse what they cannot read."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from merging.kernels import compiled
from merging.kernels.compiled import takes
from merging.kernels.counting import around
from merging.kernels.sums import store
from merging.methods import METHODS, At, Method
from merging.methods.gram import gram
from merging.step import Step
from merging.whole import Whole

DTYPES = [torch.bfloat16, torch.float32]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ties": [{"scope": "tensor"}, {"scope": "row"}, {"average": "weights"}, {"average": "sum"}, {"compat": "mergekit"}],
    "dare_ties": [{"rescale": "norm"}, {"average": "sum"}],
    "della": [{"rescale": "norm"}, {"epsilon": 0.0}, {"compat": "mergekit"}, {"density": 0.9, "epsilon": 0.2}],
    "breadcrumbs": [{"gamma": 0.05, "density": 0.3}, {"compat": "mergekit"}],
    "sce": [{"mask": "delta"}, {"density": 1.0}, {"compat": "mergekit"}],
    "linear": [{"normalize": False}],
}
CASES = [(method, {}) for method in METHODS.values()] + [
    (METHODS[name], settings) for name, several in SETTINGS.items() for settings in several
]


def drawn(count: int, dtype: torch.dtype, shape: Sequence[int] = (70, 90)) -> tuple[Tensor, list[Tensor]]:
    """A base and fine-tunes of it, with zeros of both signs, equal entries, and numbers next to nothing."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(shape, generator=generator) * 0.02
    base.view(-1)[:50] = 0.0
    base.view(-1)[50:80] = -0.0
    tuned = [base + torch.randn(shape, generator=generator) * 0.002 for _ in range(count)]
    for number, one in enumerate(tuned):
        one.view(-1)[40 : 60 + number] = base.view(-1)[40 : 60 + number]
        one.view(-1)[100:120] = 1e-40
    return base.to(dtype), [one.to(dtype) for one in tuned]


@contextmanager
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, loops are told that they can read nothing."""
    with monkeypatch.context() as patch:
        for module in ("merging.kernels.compiled", "merging.kernels.sums", "merging.step", "merging.methods.gram"):
            patch.setattr(f"{module}.takes", lambda *_: False)
        yield


def made(method: Method, settings: dict[str, Any], base: Tensor, tuned: Sequence[Tensor], out: torch.dtype) -> Tensor:
    names = tuple("abcdefghijklmnopq"[: len(tuned)])
    row = tuple(0.3 - 0.7 * (place % 2) + 0.1 * place for place in range(len(method.coefficients(names))))
    if method.row_error(row, method.structure.model_validate(settings)):
        row = tuple(abs(weight) for weight in row)
    at: At[Any] = At("layer.weight", names, row, method.structure.model_validate(settings), seed=7, depth=0.5)
    whole = Whole(["layer.weight"], lambda _: base, [lambda _, one=one: one for one in tuned])
    at = replace(at, survey=method.survey(whole, at.structure))
    reads = tuple(lambda one=one: one for one in tuned)
    return Step("layer.weight", tuple(base.shape), out, method, at, lambda: base, reads).made()


@pytest.mark.parametrize("out", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("method", "settings"), CASES, ids=lambda case: getattr(case, "name", str(case)))
def test_a_merge_has_the_same_entries_with_loops_and_without(
    method: Method, settings: dict[str, Any], dtype: torch.dtype, out: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = drawn(min(3, method.max_experts or 3), dtype)
    by_loops = made(method, settings, base, tuned, out)
    with by_torch(monkeypatch):
        expected = made(method, settings, base, tuned, out)
    if method.law is None and method.name != "sce":
        assert torch.equal(by_loops, expected)
    else:  # sums over whole tensors, whose order is another
        torch.testing.assert_close(by_loops.float(), expected.float(), rtol=1e-2 if out != dtype else 8e-3, atol=1e-8)
        assert (by_loops == expected).float().mean() > 0.999


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", ["task_arithmetic", "linear", "ties", "karcher"])
def test_any_number_of_experts_is_read_at_once(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = drawn(count, torch.bfloat16)
    by_loops = made(METHODS[name], {}, base, tuned, torch.bfloat16)
    with by_torch(monkeypatch):
        assert torch.equal(by_loops, made(METHODS[name], {}, base, tuned, torch.bfloat16))


def test_bfloat16_is_rounded_to_the_nearest_and_halves_to_even_as_torch_does() -> None:
    bits = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32)
    halves = (np.arange(0, 1 << 16, dtype=np.uint32) << 16) | 0x8000
    for some in (bits, halves, halves - 1, halves + 1):
        numbers = torch.from_numpy(some.view(np.float32))
        numbers = numbers[numbers.isfinite()]
        out = torch.empty(len(numbers), dtype=torch.bfloat16)
        finite = store(numbers, out)
        assert torch.equal(out.view(torch.int16), numbers.bfloat16().view(torch.int16))
        assert finite == bool(numbers.bfloat16().isfinite().all())


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("broken", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFF0000])
@pytest.mark.parametrize("place", [0, 17, 2999])
def test_no_infinity_and_no_nan_of_any_bits_is_stored_unnoticed(
    source: torch.dtype, target: torch.dtype, broken: int, place: int
) -> None:
    numbers = torch.linspace(-3, 3, 3000)
    numbers[place] = torch.from_numpy(np.array([broken], np.uint32).view(np.float32))[0]
    numbers = numbers if source == torch.float32 else (numbers.view(torch.int32) >> 16).to(torch.int16).view(source)
    assert not store(numbers, torch.empty(3000, dtype=target))


def test_a_number_too_large_for_bfloat16_alone_is_noticed_where_it_is_rounded_to_infinity() -> None:
    largest = torch.full((9,), torch.finfo(torch.float32).max)
    assert store(largest, torch.empty(9))
    assert not store(largest, torch.empty(9, dtype=torch.bfloat16))
    assert store(torch.full((9,), torch.finfo(torch.bfloat16).max), torch.empty(9, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, dtype=torch.float16),
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(4, 4).T[1:],
        torch.arange(3),
    ],
)
def test_what_loops_cannot_read_is_left_to_torch(tensor: Tensor) -> None:
    assert not takes(tensor)
    assert not takes(torch.zeros(3), torch.zeros(3).bfloat16()), "of several models all are stored alike"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["task_arithmetic", "model_stock", "ties", "della"])
def test_other_dtypes_are_merged_all_the_same(name: str, dtype: torch.dtype) -> None:
    base, tuned = drawn(3, torch.float32)
    expected = made(METHODS[name], {}, base, tuned, torch.float32)
    merged = made(METHODS[name], {}, base.to(dtype), [one.to(dtype) for one in tuned], dtype)
    assert (merged.float() - expected).abs().mean() < 1e-4


def test_inner_products_are_those_of_float64_and_the_same_for_a_whole_as_for_its_pieces() -> None:
    _, (one, other) = drawn(2, torch.float32, (123, 457))
    found = gram([one, other])
    exact = [[float((a.double() * b.double()).sum()) for b in (one, other)] for a in (one, other)]
    assert np.allclose(found, exact, rtol=1e-12)
    assert found[0][1] == found[1][0]


@pytest.mark.parametrize("size", [0, 1, 7, 2048, 2049, 10_000])
def test_what_lies_in_a_band_is_kept_in_order_and_what_lies_above_is_counted(size: int) -> None:
    bits = np.random.default_rng(size).integers(-50, 50, size).astype(np.int32)
    for low, high in ((-10, 12), (0, 0), (-(1 << 31), (1 << 31) - 1), (60, 70)):
        for ends in ((False, False), (True, False), (False, True), (True, True)):
            open_low, open_high = ends
            kept, above, at_high, at_low = around(bits, low, high, open_low=open_low, open_high=open_high)
            inside = (bits > low if open_low else bits >= low) & (bits < high if open_high else bits <= high)
            assert kept.tolist() == bits[inside].tolist()
            assert (above, at_high, at_low) == ((bits > high).sum(), (bits == high).sum(), (bits == low).sum())


@pytest.mark.parametrize("count", [17, 40])
@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "sce", "karcher"])
def test_more_experts_than_a_loop_takes_are_merged_by_torch(name: str, count: int) -> None:
    base, tuned = drawn(count, torch.bfloat16, (3, 5))
    at: At[Any] = At("layer.weight", tuple(map(str, range(count))), (1 / count,) * count, METHODS[name].structure())
    merged = METHODS[name].merge(base, tuned, at)
    assert (merged - base.float()).abs().max() < 0.1


def test_a_loop_for_as_many_experts_as_it_takes_is_compiled_deep_inside_of_other_code() -> None:
    base, tuned = drawn(compiled.MOST, torch.float32, (3, 5))

    def deep(frames: int) -> Tensor:
        return deep(frames - 1) if frames else made(METHODS["linear"], {}, base, tuned, torch.bfloat16)

    assert deep(400).isfinite().all()


def by_itself(code: str, cache: Path, **environment: str) -> str:
    """What a process of its own prints."""
    settings = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], check=True, env=settings, capture_output=True, text=True
    ).stdout.strip()


STORE = (
    "import torch; from merging.kernels import sums; out = torch.empty(3); assert sums.store(torch.ones(3), out);"
    "assert out.tolist() == [1, 1, 1]; print(sum(sums._stored.stats.cache_hits.values()))"
)


def test_loops_are_compiled_once_and_found_again_by_the_next_process(tmp_path: Path) -> None:
    assert [by_itself(STORE, tmp_path) for _ in range(2)] == ["0", "1"]


@pytest.mark.parametrize("size", [0, 10, 100, 5000])
def test_damaged_files_are_compiled_anew(tmp_path: Path, size: int) -> None:
    by_itself(STORE, tmp_path)
    kept = [file for file in tmp_path.rglob("loops/*/*") if file.is_file()]
    assert kept
    for file in kept:
        os.truncate(file, size)
    assert [by_itself(STORE, tmp_path) for _ in range(2)] == ["0", "1"]


def test_loops_work_where_nothing_can_be_kept_on_disk(tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("no folder can be made in a file")
    assert by_itself(STORE, nowhere / "cache") == "0"


def test_loops_work_where_the_disk_is_full_by_the_time_they_are_compiled(tmp_path: Path) -> None:
    full = "from merging.kernels import sums; import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200));"
    assert by_itself("import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);" + full + STORE, tmp_path) == "0"
    assert not [file for file in tmp_path.rglob("loops/*/*") if file.is_file()], "nothing is left behind"


def test_a_loop_is_never_taken_for_one_of_other_arguments(tmp_path: Path) -> None:
    code = (
        "import torch; from merging.kernels import sums; from merging.methods.method import WeightedSum;"
        "count = COUNT; one = torch.ones(9, dtype=DTYPE); out = torch.empty(9);"
        "assert sums.writer(WeightedSum(None, (one,) * count, (1.0,) * count))(0, 9, out); print(out[0].item())"
    )
    cases = [(count, dtype) for count in (2, 3) for dtype in ("torch.bfloat16", "torch.float32")]
    codes = [code.replace("COUNT", str(count)).replace("DTYPE", dtype) for count, dtype in cases]
    for _ in range(2):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", one],
                env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for one in codes
        ]
        said = [process.communicate()[0].strip() for process in running]
        assert said == [str(float(count)) for count, _ in cases]


def test_a_machine_where_nothing_may_be_compiled_is_told_so(tmp_path: Path) -> None:
    code = (
        "from merging.errors import MergeError\ntry:\n import merging.step\nexcept MergeError as error:\n print(error)"
    )
    assert "unset it" in by_itself(code, tmp_path, NUMBA_DISABLE_JIT="1")
