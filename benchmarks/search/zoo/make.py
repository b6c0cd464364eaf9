"""Train zoos where they are not there, and print how hard each is to merge.

python -m benchmarks.search.zoo.make [strings] [choices] [strings-misled] [--seed 0] [--folder DIR]
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.search.zoo import HOME, open_zoo
from benchmarks.search.zoo.kinds import ZOOS
from benchmarks.search.zoo.reference import Reference, references


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="zoo", help=f"one of {', '.join(ZOOS)}; all where none is named")
    parser.add_argument("--seed", type=int, default=0, help="another seed trains other models")
    parser.add_argument("--folder", type=Path, default=HOME, help="where the trained models are kept")
    asked = parser.parse_args()
    for name in asked.names:
        if name not in ZOOS:
            parser.error(f"a zoo must be one of {', '.join(ZOOS)}, but got {name!r}.")
    console = Console()
    for name in asked.names or ZOOS:
        began = time.perf_counter()
        zoo = open_zoo(name, asked.folder, asked.seed)
        opened = time.perf_counter() - began
        console.print(_table(f"{name}, seed {asked.seed}", tuple(zoo.experts), references(zoo)))
        began = time.perf_counter()
        zoo.score(np.full((len(zoo.groups), len(zoo.experts)), 0.5), zoo.ids["search"])
        scored = time.perf_counter() - began
        console.print(f"opened in {opened:.1f} s; {len(zoo.ids['search'])} examples scored in {1000 * scored:.0f} ms")


def _table(title: str, tasks: tuple[str, ...], found: Iterable[Reference]) -> Table:
    table = Table("merge", "test", *tasks, title=title)
    for one in found:
        table.add_row(one.label, f"{one.test:.3f}", *(f"{one.by_task[task]:.3f}" for task in tasks))
    return table


if __name__ == "__main__":
    main()
