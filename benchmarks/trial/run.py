"""Time trials side by side: `python -m benchmarks.trial.run --shape 135m --task choice`."""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.trial import floor
from benchmarks.trial.contestants import FromDisk, LoadedModel, Ours, open_ours, recipe
from benchmarks.trial.ends import end_tokens_for_mixed_lengths
from benchmarks.trial.material import KINDS, SHAPES, Kind, write_models, write_task
from evaluators.meter import Meter

HFLM_TOKENS = 4096  # a batch of lm-eval's holds as many tokens as one of ours


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
    parser.add_argument("--no-peers", action="store_true", help="only our trial and the floor")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _compare(ours: Ours, folder: Path, kind: Kind, options: argparse.Namespace) -> dict[str, Any]:
    """Every contestant once in each repeat; medians of the ratios within a repeat."""
    if kind != "choice":
        end_tokens_for_mixed_lengths(ours)
    tokenizer = ours.evaluator._tokenizer
    loaded = LoadedModel(ours.model, tokenizer, folder, kind, batch_size=max(1, HFLM_TOKENS // 128))
    disk = FromDisk(ours, loaded, folder)
    passes: list[floor.Pass] = []
    wanted, other = recipe(ours.sources, 0.3), recipe(ours.sources, 0.35)
    ours.trial(wanted)  # tokenized, packed and warm, as from a job's second trial on
    with floor.recorded(passes):
        ours.trial(wanted)
    seconds: dict[str, list[float]] = {"floor": [], "trial": [], "loaded": [], "disk": []}
    meters: list[Meter] = []
    for _ in range(options.repeats):
        ours.fill(other)  # so that every group has to be written again
        seconds["trial"].append(_timed(lambda: meters.append(ours.trial(wanted))))
        seconds["floor"].append(_timed(lambda: floor.run(passes)))
        if not options.no_peers:
            seconds["loaded"].append(_timed(loaded.trial))
            seconds["disk"].append(_timed(lambda: disk.trial(wanted)))
    return _row(options, kind, seconds, meters, _hflm_tokens(ours, kind))


def _timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _row(
    options: argparse.Namespace, kind: Kind, seconds: dict[str, list[float]], meters: list[Meter], theirs: int
) -> dict[str, Any]:
    def ratio(one: str, other: str) -> float | None:
        pairs = list(zip(seconds[one], seconds[other], strict=False))
        return round(statistics.median(a / b for a, b in pairs), 3) if pairs else None

    own = meters[-1]
    share = [meter.seconds["materialize"] / total for meter, total in zip(meters, seconds["trial"], strict=True)]
    return {
        "shape": options.shape,
        "dtype": options.dtype,
        "task": kind,
        "documents": options.documents,
        "trial_seconds": round(statistics.median(seconds["trial"]), 3),
        "trial_over_floor": ratio("trial", "floor"),
        "loaded_over_trial": ratio("loaded", "trial"),
        "disk_over_trial": ratio("disk", "trial"),
        "materialize_share": round(statistics.median(share), 4),
        "stages": {name: round(value, 3) for name, value in own.seconds.items()},
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
