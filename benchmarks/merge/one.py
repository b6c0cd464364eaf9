"""Measure one thing in a process of its own: `python -m benchmarks.merge.one --models DIR --what ties`."""

import argparse
import json
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.memory import anonymous, children

FLOORS = ("floor", "floor_mapped")
_BLOCK = 1 << 20
# settings and rows under which every method has something to do
SETTINGS: dict[str, dict[str, Any]] = {"slerp": {"experts": 1}}


def main() -> None:
    """Print one line of JSON: seconds of the processor and of the clock, and the most anonymous memory, in MiB."""
    options = _options()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    places = [options.models / name for name in ("base", "one", "two", "three")]
    out = options.models / f"out-{os.getpid()}"
    try:
        work = _work(options.what, places, out, options.threads, json.loads(options.settings))
        print(json.dumps({"what": options.what, "threads": options.threads, **_measured(work)}))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with base, one, two and three")
    parser.add_argument("--what", required=True, help="a method, `hashes`, or one of: " + ", ".join(FLOORS))
    parser.add_argument("--settings", default="{}", help="the method's, JSON")
    parser.add_argument("--threads", type=int, default=1, help="and as many processors")
    return parser.parse_args()


def _work(what: str, places: list[Path], out: Path, threads: int, settings: dict[str, Any]) -> Callable[[], object]:
    if what in FLOORS:
        return lambda: _floor(places, out, mapped=what == "floor_mapped")
    from merging.methods import METHODS
    from merging.recipe import Recipe, Source
    from merging.sources import Sources

    method = METHODS.get(what)
    experts = places[1 : 1 + min(3, 1 if what == "slerp" else (method.max_experts or 3) if method else 3)]
    plain = Recipe(
        method=method.name if method else "linear",
        base=Source(path=str(places[0])),
        experts={place.name: Source(path=str(place)) for place in experts},
        coefficients={},
        structure=settings,
    )
    if what == "hashes":  # what a first merge of new files does besides; later ones remember it
        return lambda: _hash(Sources(plain), threads)
    if method is None:
        sys.exit(f"there is no method `{what}`")

    def merge() -> None:
        from merging.folder import write_checkpoint

        sources = Sources(plain)
        row = tuple(0.3 + 0.1 * number for number in range(len(method.coefficients(tuple(plain.experts)))))
        recipe = plain.model_copy(update={"coefficients": {group.name: row for group in sources.groups}})
        write_checkpoint(recipe, sources, out, card_text="", threads=threads)

    import torch  # before the clock starts

    import merging.folder  # noqa: F401

    torch.set_num_threads(1)
    return merge


def _hash(sources: Any, threads: int) -> None:
    from merging.checkpoint import file_hashes, fingerprint, hash_weights

    models = (sources.base, *sources.experts.values())
    hash_weights(models, threads)
    for one in models:
        fingerprint(one)
        file_hashes(one)


def _floor(places: list[Path], out: Path, *, mapped: bool) -> None:
    """Read every source once into a buffer that is used again, and write as much as one of them; no arithmetic."""
    files = [file for place in places for file in sorted(place.glob("*.safetensors"))]
    buffer = bytearray(_BLOCK)
    view = memoryview(buffer)
    for file in files:
        (_read_mapped if mapped else _read)(file, view)
    out.mkdir()
    descriptor = os.open(out / "model.safetensors", os.O_WRONLY | os.O_CREAT)
    for place in range(0, sum(file.stat().st_size for file in sorted(places[0].glob("*.safetensors"))), _BLOCK):
        os.pwrite(descriptor, view, place)
    os.fsync(descriptor)
    os.close(descriptor)


def _read(file: Path, view: memoryview) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    place = 0
    while read := os.preadv(descriptor, [view], place):
        place += read
    os.close(descriptor)


def _read_mapped(file: Path, view: memoryview) -> None:
    import mmap

    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        for place in range(0, len(mapped) - _BLOCK, _BLOCK):
            part = memoryview(mapped)[place : place + _BLOCK]
            view[:] = part
            part.release()


def _measured(work: Callable[[], object]) -> dict[str, float]:
    start_up = time.process_time()
    before = anonymous()
    most, stop = [before], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            # a forked process shares what was there before
            forked = sum(max(0, anonymous(child) - before) for child in children())
            most[0] = max(most[0], anonymous() + forked)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    use, forked_use = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    started, used, own = time.perf_counter(), os.times(), time.process_time()
    work()
    wall, after = time.perf_counter() - started, os.times()
    forked = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() - own + forked.ru_utime + forked.ru_stime - forked_use.ru_utime - forked_use.ru_stime
    now = resource.getrusage(resource.RUSAGE_SELF)
    stop.set()
    watcher.join()
    return {
        "cpu": round(cpu, 3),
        "system": round(after.system - used.system + after.children_system - used.children_system, 3),
        "wall": round(wall, 3),
        "start_up_cpu": round(start_up, 3),
        "read_mib": round((now.ru_inblock - use.ru_inblock) / 2048, 1),
        "faults": now.ru_minflt - use.ru_minflt + now.ru_majflt - use.ru_majflt,
        "anonymous_mib": round(max(most[0], anonymous()) / 2**20, 1),
        "anonymous_before_mib": round(before / 2**20, 1),
    }


if __name__ == "__main__":
    main()
