"""Time trials side by side: `python -m benchmarks.trial.run --shape 135m --task choice`."""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.trial import floor
from benchmarks.trial.contestants import FromDisk, LoadedModel, Ours, open_ours, recipe
from benchmarks.trial.ends import answer_lengths, end_tokens_for_mixed_lengths
from benchmarks.trial.material import KINDS, LONGEST, SHAPES, Kind, write_models, write_task
from evaluators.meter import Meter

BESIDE = ("floor", "loaded", "disk")
# Questions in a batch of lm-eval's: at 128 tokens each, as many tokens as a batch of ours may hold. Of texts ours
# writes up to 128 at a time: `--batch 128` gives lm-eval's model as large a cache.
BATCH = 32


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    shape, dtype = SHAPES[options.shape], getattr(torch, options.dtype)
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        print(f"making a {options.shape} model and 3 experts", file=sys.stderr)
        paths = write_models(folder, shape, dtype, experts=3)
        for kind in options.task or KINDS:
            write_task(folder, kind, shape.vocabulary, options.documents)
            ours = open_ours(paths, folder, kind, dtype, options.device)
            rows.append(_compare(ours, folder, kind, options))
            print(json.dumps(rows[-1]) if options.json else _line(rows[-1]), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--task", choices=KINDS, action="append", help="choice, short, long; all where left out")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--beside", nargs="*", choices=BESIDE, default=BESIDE, help="what a trial is timed beside")
    parser.add_argument("--batch", type=int, nargs="+", default=[BATCH], help="batch sizes for lm-eval's model")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _compare(ours: Ours, folder: Path, kind: Kind, options: argparse.Namespace) -> dict[str, Any]:
    """Every contestant once in each repeat; medians of the ratios within a repeat."""
    wanted, other = recipe(ours.sources, 0.3), recipe(ours.sources, 0.35)
    if kind != "choice":
        end_tokens_for_mixed_lengths(ours.model, LONGEST[kind])
    tokenizer = ours.evaluator._tokenizer
    loaded = {size: LoadedModel(ours.model, tokenizer, folder, kind, size) for size in options.batch}
    disk = FromDisk(ours, loaded[options.batch[0]], folder)
    passes: list[floor.Pass] = []
    ours.trial(wanted, most=8)
    if kind == "choice" or "floor" in options.beside:  # packed, as from a job's second trial on; texts never are
        with floor.recorded(passes):
            ours.trial(wanted)
    seconds: dict[str, list[float]] = defaultdict(list)
    meters: list[Meter] = []
    written: list[int] = []
    timed = partial(_timed, _clock(options))
    for _ in range(options.repeats):
        ours.fill(other)  # so that every group has to be written again
        with answer_lengths(written):
            seconds["trial"].append(timed(lambda: meters.append(ours.trial(wanted))))
        if "floor" in options.beside:
            seconds["floor"].append(timed(lambda: floor.run(passes)))
        if "loaded" in options.beside:
            for size, one in loaded.items():
                seconds[f"loaded {size}"].append(timed(one.trial))
        if "disk" in options.beside:
            seconds["disk"].append(timed(lambda: disk.trial(wanted)))
    return _row(options, kind, seconds, meters, written, _hflm_tokens(ours, kind))


def _clock(options: argparse.Namespace) -> Callable[[], float]:
    """The processor's seconds where one thread does all the work: a shared machine's wait is not counted.

    What the disk makes a contestant wait for is not counted either.
    """
    return time.process_time if options.device == "cpu" and options.threads == 1 else time.perf_counter


def _timed(clock: Callable[[], float], call: Callable[[], Any]) -> float:
    started = clock()
    call()
    return clock() - started


def _row(
    options: argparse.Namespace,
    kind: Kind,
    seconds: dict[str, list[float]],
    meters: list[Meter],
    written: list[int],
    theirs: int,
) -> dict[str, Any]:
    def ratio(one: str, other: str) -> float | None:
        pairs = list(zip(seconds[one], seconds[other], strict=False))
        return round(statistics.median(a / b for a, b in pairs), 3) if pairs else None

    own = meters[-1]
    share = [meter.seconds["materialize"] / sum(meter.seconds.values()) for meter in meters]
    return {
        "shape": options.shape,
        "dtype": options.dtype,
        "task": kind,
        "documents": options.documents,
        "trial_seconds": round(statistics.median(seconds["trial"]), 3),
        "seconds": {name: [round(one, 2) for one in every] for name, every in seconds.items()},
        "trial_over_floor": ratio("trial", "floor"),
        "loaded_over_trial": {size: ratio(f"loaded {size}", "trial") for size in options.batch},
        "disk_over_trial": ratio("disk", "trial"),
        "materialize_share": round(statistics.median(share), 4),
        "stages": {name: round(value, 3) for name, value in own.seconds.items()},
        "answer_mean": round(statistics.mean(written), 1) if written else None,
        "answer_longest": max(written, default=None),
        "tokens": sum(own.tokens.values()),
        "tokens_of_lm_eval": theirs,
    }


def _hflm_tokens(ours: Ours, kind: Kind) -> int:
    """The tokens lm-eval's model is run on for the same questions, padding left out; 0 for generation."""
    if kind != "choice":
        return 0
    items = ours.evaluator._items.values()
    return sum(len(context) + len(answer) - 1 for item in items for _, context, answer in item.encoded)


def _line(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in row.items())


if __name__ == "__main__":
    main()
