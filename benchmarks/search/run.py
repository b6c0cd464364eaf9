"""Let ways to search compete: `python -m benchmarks.search.run --level L0 --seeds 3`.

Runs what is not kept yet, then prints the table of all that was asked for and writes figures beside the runs.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.search.budgets import budget_of, in_order
from benchmarks.search.contestants import INCUMBENT, STRONG, everyone
from benchmarks.search.figures import figures
from benchmarks.search.judge import Run, judged, path_of, read, written
from benchmarks.search.landscape import Landscape
from benchmarks.search.plots import curves, svg, write_page
from benchmarks.search.synthetic import quadratic
from benchmarks.search.table import markdown, rich_tables

LEVELS = {"L0": ("quadratic-0", "quadratic-1"), "L1": ("strings", "choices", "strings-misled")}
HOME = Path(__file__).parent / ".runs"


@dataclass(frozen=True)
class Wanted:
    """One run: plain data, for it goes to another process."""

    landscape: str
    contestant: str
    budget: int
    seed: int

    def path(self, folder: Path) -> Path:
        return path_of(folder, self.landscape, self.contestant, self.budget, self.seed)


def main() -> None:
    options = _options()
    wanted = [
        Wanted(landscape, contestant, budget_of(contestant, options.budget), seed)
        for contestant in options.contestants
        for landscape in options.zoo or LEVELS[options.level]
        for seed in range(options.seeds)
    ]
    failed = run_missing(wanted, options.out, options.jobs)
    runs = [read(one.path(options.out)) for one in wanted if one.path(options.out).exists()]
    if runs:
        report(runs, options.out, options.json)
    if failed:
        sys.exit("\n".join(failed))


def report(runs: Sequence[Run], folder: Path, as_json: bool = False) -> None:
    """Print the figures, and write `table.md`, `search.html` and an SVG for each landscape into the folder."""
    found = figures(runs, INCUMBENT, STRONG)
    lines = curves(runs)
    (folder / "table.md").write_text(markdown(found))
    write_page(lines, folder / "search.html")
    for landscape, own in lines.items():
        (folder / f"{landscape}.svg").write_text(svg(landscape, own))
    if as_json:
        for one in found:
            print(json.dumps(asdict(one)))
        return
    console = Console(width=None if sys.stdout.isatty() else 220)
    for table in rich_tables(found):
        console.print(table)


def run_missing(wanted: Sequence[Wanted], folder: Path, jobs: int) -> list[str]:
    """Run what is not kept in the folder, in parallel processes of one thread each; one line for each that failed."""
    missing = [one for one in wanted if not one.path(folder).exists()]
    if not missing:
        return []
    for name in dict.fromkeys(one.landscape for one in missing):
        open_landscape(name)  # a zoo is trained once, here, and not by several processes at a time
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes when they start
    failed = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
    ):
        bar = progress.add_task("runs", total=len(missing))
        pending = {pool.submit(_run, one, folder): one for one in missing}
        for done in as_completed(pending):
            one = pending[done]
            progress.update(bar, advance=1, description=f"{one.landscape}, {one.contestant}")
            error = done.exception()
            if error is None:
                progress.console.print(f"{one.landscape}, {one.contestant}, seed {one.seed}: done")
            else:
                failed.append(f"{one.landscape}, {one.contestant}, seed {one.seed}: {type(error).__name__}: {error}")
    return failed


def _run(wanted: Wanted, folder: Path) -> None:
    contestant = everyone()[wanted.contestant]
    landscape = open_landscape(wanted.landscape)
    written(judged(wanted.contestant, contestant, landscape, wanted.budget, wanted.seed), folder)


@lru_cache(maxsize=1)
def open_landscape(name: str) -> Landscape:
    """`quadratic-7` is level L0's of seed 7; every other name is a zoo's. Raises `KeyError` where there is none."""
    kind, _, seed = name.partition("-")
    if kind == "quadratic":
        return quadratic(int(seed))
    from benchmarks.search.zoo import open_zoo

    return open_zoo(name)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=list(LEVELS), default="L0", help="L0: from a seed alone. L1: tiny models")
    parser.add_argument("--zoo", nargs="+", help="these landscapes in place of the level's: quadratic-7, strings")
    parser.add_argument("--seeds", type=int, default=3, help="how many; odd numbers have clear medians")
    parser.add_argument(
        "--budget", type=int, default=100_000, help="EFE of each run; ours and the strong baseline stop at 30,000"
    )
    parser.add_argument("--contestants", type=_names, default=list(in_order()), help="by comma; all if left out")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=HOME, help="where runs are kept; those that are there stay")
    parser.add_argument("--json", action="store_true", help="one line for each contestant and landscape")
    parser.add_argument("--list", action="store_true", help="print the contestants' names and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(everyone()))
        parser.exit()
    return options


def _names(text: str) -> list[str]:
    """Names of contestants, which may have commas in them; the incumbent is always among them, for the target."""
    found = _found([part.strip() for part in text.split(",")], list(everyone()))
    return list(dict.fromkeys([INCUMBENT, *found]))


def _found(parts: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    at = 0
    while at < len(parts):
        stops = [stop for stop in range(at + 1, len(parts) + 1) if ", ".join(parts[at:stop]) in known]
        if not stops:
            raise argparse.ArgumentTypeError(f"contestants are {'; '.join(known)}, but got {parts[at]!r}")
        yield ", ".join(parts[at : stops[-1]])
        at = stops[-1]


if __name__ == "__main__":
    main()
