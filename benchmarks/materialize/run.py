"""Time fills of a resident model: `python -m benchmarks.materialize.run --shape 135m --methods ties`."""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.memory import anonymous
from benchmarks.trial.material import SHAPES, write_models
from merging.kept_directions import Directions, KeptDirections
from merging.live import LiveMerge
from merging.materialize import Sources
from merging.methods import METHODS
from merging.pieces import CHUNK, pieces
from merging.recipe import Recipe, Source


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        print(f"making a {options.shape} model and 3 experts", file=sys.stderr)
        paths = write_models(folder, SHAPES[options.shape], getattr(torch, options.dtype), experts=3)
        for method in options.methods:
            row = _measure(paths, method, folder / "kept", options.repeats)
            print(json.dumps(row) if options.json else "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--methods", nargs="+", default=["task_arithmetic", "ties", "dare_linear"], choices=METHODS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _measure(paths: list[Path], method: str, folder: Path, repeats: int) -> dict[str, Any]:
    """Medians over the repeats, seconds of the processor; in each repeat every way once."""
    sources = Sources(_recipe(paths, method, 0.0, []))
    groups = [group.name for group in sources.groups]
    known = sources.fingerprinted(_recipe(paths, method, 0.3, groups))
    model = LlamaForCausalLM.from_pretrained(paths[0], dtype="auto")
    before = anonymous()
    kept = LiveMerge(model, sources, KeptDirections(sources, folder))
    fresh = LiveMerge(model, sources)
    for value in (0.1, 0.2, 0.25):  # the second time a structure is asked for its directions are kept
        kept.fill(_scaled(known, groups, value))
    prepared = kept.directions(known)
    seconds: dict[str, list[float]] = {"floor": [], "prepared_floor": [], "full": [], "group": [], "unkept": []}
    for number in range(repeats):
        value = 0.3 + 0.01 * number
        seconds["floor"].append(_timed(partial(_floor, model, sources)))
        if prepared is not None:
            seconds["prepared_floor"].append(_timed(partial(_prepared_floor, model, sources, prepared)))
        seconds["full"].append(_timed(partial(kept.fill, _scaled(known, groups, value))))
        one = {**_scaled(known, groups, value).coefficients, groups[0]: _row(value + 0.05)}
        seconds["group"].append(_timed(partial(kept.fill, known.model_copy(update={"coefficients": one}))))
        seconds["unkept"].append(_timed(partial(fresh.fill, _scaled(known, groups, value))))
    medians = {name: statistics.median(found) for name, found in seconds.items() if found}
    row = {
        "method": method,
        "full_seconds": round(medians["full"], 4),
        **{f"{name}_over_floor": round(found / medians["floor"], 2) for name, found in medians.items()},
    }
    if prepared is not None:
        row["full_over_prepared_floor"] = round(medians["full"] / medians["prepared_floor"], 2)
    return row | {
        "anonymous_mib": round((anonymous() - before) / 2**20, 1),
    }


def _recipe(paths: list[Path], method: str, scale: float, groups: list[str]) -> Recipe:
    return Recipe(
        method=method,
        base=Source(path=str(paths[0])),
        experts={path.name: Source(path=str(path)) for path in paths[1:]},
        coefficients=dict.fromkeys(groups, _row(scale)),
    )


def _row(scale: float) -> tuple[float, ...]:
    return (scale, scale + 0.1, scale + 0.2)


def _scaled(recipe: Recipe, groups: list[str], scale: float) -> Recipe:
    return recipe.model_copy(update={"coefficients": dict.fromkeys(groups, _row(scale))})


@torch.no_grad()
def _floor(model: Any, sources: Sources) -> None:
    """Read every source once and write the model once, with no arithmetic."""
    targets = dict(model.named_parameters())
    models = [one for one in (sources.base, *sources.experts.values()) if one is not None]
    for name in sources.reference.names:
        for one in models:
            targets[name].copy_(one.tensor(name))


@torch.no_grad()
def _prepared_floor(model: Any, sources: Sources, prepared: Directions) -> None:
    """Read the base and every kept direction once, piece by piece, and write the model once, with no arithmetic."""
    targets = dict(model.named_parameters())
    buffer = torch.empty(CHUNK)
    assert sources.base is not None
    for name in sources.reference.names:
        for direction in prepared(name):
            for piece in pieces(direction):
                buffer[: piece.numel()].copy_(piece)
        targets[name].copy_(sources.base.tensor(name))


def _timed(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


if __name__ == "__main__":
    main()
