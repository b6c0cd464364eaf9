"""Divide a cluster between the jobs that run on it: how many workers each may have.

A pure function that every coordinator computes for itself from the same rows, so nobody has to be in charge. Jobs are
served by priority; of equal ones each gets one worker after the other in turn (max-min fairness, counted in the part of
the cluster that a worker takes), none more than it wants or its user may have. Every running job keeps one worker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Offer(Protocol):
    """What the living nodes of a cluster have, all together."""

    @property
    def cpus(self) -> float:
        """Processors."""
        ...

    @property
    def gpus(self) -> float:
        """GPUs."""
        ...


@dataclass(frozen=True)
class Demand:
    """A running job: how many workers it wants at most, and what each of them takes."""

    job: int
    user: str
    priority: int
    workers: int
    cpus: float
    gpus: float


def shares(demands: Sequence[Demand], capacity: Offer, most: Mapping[str, int | None]) -> dict[int, int]:
    """Workers by job id. `most` is each user's limit on workers, all jobs together; None or absent: no limit.

    Where a cluster cannot hold one worker for each job, each still gets one: it waits for room, and a cluster that
    grows with its demand sees what is wanted.
    """
    given = {demand.job: 1 for demand in demands}
    taken = sum(_size(demand, capacity) for demand in demands)
    held: dict[str, int] = {}
    for demand in demands:
        held[demand.user] = held.get(demand.user, 0) + 1
    for priority in sorted({demand.priority for demand in demands}, reverse=True):
        open_ones = [demand for demand in demands if demand.priority == priority]
        while open_ones:
            following = min(open_ones, key=lambda one: (given[one.job] * _size(one, capacity), one.job))
            limit = most.get(following.user)
            fits = taken + _size(following, capacity) <= 1 + 1e-9
            if given[following.job] >= following.workers or not fits or _at(limit, held[following.user]):
                open_ones.remove(following)
                continue
            given[following.job] += 1
            held[following.user] += 1
            taken += _size(following, capacity)
    return given


def _size(demand: Demand, capacity: Offer) -> float:
    """The part of the cluster that one worker takes: of what is scarcest for it."""
    asked = ((demand.cpus, capacity.cpus), (demand.gpus, capacity.gpus))
    return max(wanted / there if there > 0 else 1.0 for wanted, there in asked if wanted > 0)


def _at(limit: int | None, held: int) -> bool:
    return limit is not None and held >= limit
