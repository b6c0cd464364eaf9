"""The ways to search that `auto` is compared with, by name.

Tools that score a candidate on all of their data get the `search` split and nothing else, whatever else the budget
would let them see, so that their figures are comparable with each other.
"""

from functools import partial

from benchmarks.search.contestants.cma_es import cma_es
from benchmarks.search.contestants.genetic import genetic
from benchmarks.search.contestants.gp import gp
from benchmarks.search.contestants.grid import grid
from benchmarks.search.contestants.mergekit import mergekit_evolve
from benchmarks.search.contestants.minibatch import BATCH, minibatch
from benchmarks.search.contestants.noisy_gp import noisy_gp
from benchmarks.search.contestants.random_points import random_points
from benchmarks.search.contestants.tpe import tpe
from benchmarks.search.landscape import Contestant

INCUMBENT = "mergekit-evolve style"
STRONG = "CMA-ES on scales, minibatch"

BASELINES: dict[str, Contestant] = {
    INCUMBENT: mergekit_evolve,
    STRONG: minibatch,
    f"{STRONG}, smooth": partial(minibatch, smooth=True),
    "CMA-ES": cma_es,
    "CMA-ES, mean": partial(cma_es, mean=True),
    "Sakana style": partial(cma_es, bounds=(0.0, 1.0), start=0.5),
    "TPE": tpe,
    "GP": gp,
    "GP on scales": partial(gp, scales=True),
    "noisy GP on scales": noisy_gp,
    "noisy GP on scales, minibatch": partial(noisy_gp, batch=BATCH),
    "random": random_points,
    "mergenetic style, 20 items": genetic,
    "mergenetic style, full split": partial(genetic, items=None),
    "task arithmetic grid": grid,
}


def everyone() -> dict[str, Contestant]:
    """All contestants in the order of the table, ours first."""
    from benchmarks.search.ours import CONTESTANTS

    return {**CONTESTANTS, **BASELINES}
