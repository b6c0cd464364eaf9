"""Time whole merges beside the floor and mergekit: `python -m benchmarks.merge.run --folder DIR`."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.merge import mergekit
from benchmarks.merge.material import models
from merging.methods import METHODS

LINEAR = ("linear", "task_arithmetic", "slerp", "model_stock")
SPARSE = ("ties", "dare_linear", "dare_ties", "della", "breadcrumbs", "sce")
# at least, reach for: over the floor, against mergekit
_TARGETS = {**dict.fromkeys(LINEAR, ((2.0, 1.4), (3.5, 5.0))), **dict.fromkeys(SPARSE, ((6.0, 3.5), (15.0, 25.0)))}
_FREELY = {"dare_linear", "dare_ties"}  # against mergekit there is a target for TIES, DELLA, breadcrumbs and SCE
_SPARE = 300
_PARAMETERS = 1_100_048_384


def main() -> None:
    options = _options()
    methods = [method for method in options.methods if method in METHODS]
    folder = models(options.folder, options.parameters)[0].parent
    os.environ["XDG_CACHE_HOME"] = str(options.folder / "cache")  # hashes of sources are remembered there
    first = _one(folder, "hashes", 1)
    runs: list[dict[str, Any]] = []
    for number in range(options.repeats):
        for threads in options.threads:
            for what in ("floor", "floor_mapped", *methods):
                found = {"round": number, **_one(folder, what, threads)}
                runs.append(found)
                print(json.dumps(found), file=sys.stderr, flush=True)
    peers = _peers(options, methods)
    table = _table(runs, methods, options, peers, _largest(folder))
    if options.json:
        options.json.write_text(
            json.dumps({"parameters": options.parameters, "hashes": first, "table": table, "runs": runs}, indent=1)
        )
    _print(table, first)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where models are made and kept: 11 GB at full size")
    parser.add_argument("--parameters", type=int, default=_PARAMETERS)
    parser.add_argument("--methods", nargs="+", default=[*LINEAR, *SPARSE])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="and as many processors")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mergekit", type=Path, help="environment of mergekit, made where it is not there: 2 GB")
    parser.add_argument(
        "--mergekit-parameters", type=int, help="merge smaller models with mergekit, and with ours beside it"
    )
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    return parser.parse_args()


def _one(folder: Path, what: str, threads: int) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.merge.one", "--models", str(folder), "--what", what]
    done = subprocess.run([*command, "--threads", str(threads)], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _peers(options: argparse.Namespace, methods: list[str]) -> dict[str, dict[str, float]]:
    """mergekit and ours, whole processes on one core, and both without what they take to start."""
    if options.mergekit is None:
        return {}
    command = mergekit.install(options.mergekit)
    folder = models(options.folder, options.mergekit_parameters or options.parameters)[0].parent
    _one(folder, "hashes", 1)
    idle = mergekit.start_up(command)
    found = {}
    for method in filter(mergekit.has, methods):
        ours = _one(folder, method, 1)
        theirs = mergekit.run(command, method, folder, 1)["process_cpu"]
        found[method] = {
            "mergekit_cpu": round(theirs, 2),
            "whole": round(theirs / (ours["cpu"] + ours["start_up_cpu"]), 2),
            "merge_alone": round((theirs - idle) / ours["cpu"], 2),
        }
        print(json.dumps({method: found[method]}), file=sys.stderr, flush=True)
    return found


def _table(
    runs: list[dict[str, Any]],
    methods: list[str],
    options: argparse.Namespace,
    peers: dict[str, dict[str, float]],
    largest: float,
) -> list[dict[str, Any]]:
    rows = []
    for method in methods:
        least, reach = _TARGETS.get(method, ((None, None), (None, None)))[0]
        row: dict[str, Any] = {
            "method": method,
            "over_floor": _ratio(runs, method, "floor", options),
            "over_mapped_floor": _ratio(runs, method, "floor_mapped", options),
            "at_least": least,
            "reach_for": reach,
            "cpu": _median(runs, method, options.threads[0], "cpu"),
            "anonymous_mib": _median(runs, method, options.threads[-1], "anonymous_mib"),
            "allowed_mib": round(largest * 5 + _SPARE, 1),
        }
        if len(options.threads) > 1:
            one, two = (_median(runs, method, threads, "wall") for threads in options.threads[:2])
            row["cores"] = round(one / two, 2)
        rows.append(row | peers.get(method, {}))
    return rows


def _ratio(runs: list[dict[str, Any]], method: str, floor: str, options: argparse.Namespace) -> float:
    """The median over rounds of CPU seconds over the floor's of the same round, on the first number of threads."""
    ratios = []
    for number in range(options.repeats):
        both = [
            one["cpu"]
            for what in (method, floor)
            for one in runs
            if (one["round"], one["what"], one["threads"]) == (number, what, options.threads[0])
        ]
        ratios.append(both[0] / both[1])
    return round(float(statistics.median(ratios)), 2)


def _median(runs: list[dict[str, Any]], what: str, threads: int, key: str) -> float:
    found = [one[key] for one in runs if (one["what"], one["threads"]) == (what, threads)]
    return round(float(statistics.median(found)), 2)


def _largest(folder: Path) -> float:
    """MiB of the largest tensor."""
    from merging.checkpoint import open_checkpoint
    from merging.recipe import Source

    base = open_checkpoint(Source(path=str(folder / "base")))
    return (
        max(2 * rows * columns for rows, columns in (shape for shape in base.shapes.values() if len(shape) == 2))
        / 2**20
    )


def _print(table: list[dict[str, Any]], first: dict[str, Any]) -> None:
    columns = list(dict.fromkeys(key for row in table for key in row))
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in table:
        print("| " + " | ".join(str(row.get(column, "")) for column in columns) + " |")
    print(f"\nThe first merge of new files hashes them as well: {first['cpu']} s of the processor.")


if __name__ == "__main__":
    main()
