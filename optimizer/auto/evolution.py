"""CMA-ES in a subspace of the space: a generation of points, then its ranking, then the next.

Hansen 2016, The CMA Evolution Strategy: A Tutorial (arXiv:1604.00772); package `cmaes`.
"""

import math

import numpy as np
from cmaes import CMA
from numpy.typing import NDArray

from optimizer.engines.seeds import seed_for

Array = NDArray[np.float64]

TRIES = 100  # draws for one member before it is put on the bounds


class Evolution:
    """A normal distribution around start + basis @ z.

    Members are drawn until they are within the bounds of the space; after `TRIES` draws the last one stands for the
    nearest point within them. A member's draw depends on the seed and its place alone.
    """

    def __init__(
        self, start: Array, basis: Array, low: Array, high: Array, *, sigma: float, members: int, seed: int
    ) -> None:
        self._start, self._basis, self._low, self._high = start, basis, low, high
        self._seed, self._generation = seed, 0
        self._cma = CMA(mean=np.zeros(basis.shape[1]), sigma=sigma, population_size=members, seed=0)
        self._asked: list[Array] = []

    @property
    def mean(self) -> Array:
        """The distribution's mean, `[parameters]`, within the bounds: where the search would answer."""
        return np.clip(self._at(self._cma.mean), self._low, self._high)

    @property
    def generation(self) -> int:
        return self._generation

    @property
    def spread(self) -> float:
        """The standard deviation of the widest direction, in coefficients."""
        return float(self._cma._sigma * math.sqrt(float(np.linalg.eigvalsh(self._cma._C)[-1])))

    def ask(self) -> list[Array]:
        """The members of the next generation, `[parameters]` each."""
        self._asked = [self._draw(member) for member in range(self._cma.population_size)]
        return [np.clip(self._at(z), self._low, self._high) for z in self._asked]

    def tell(self, values: list[float]) -> None:
        """Rank the members asked for last; larger is better, minus infinity for one that failed."""
        self._cma.tell([(z, -value) for z, value in zip(self._asked, values, strict=True)])
        self._generation += 1

    def _at(self, z: Array) -> Array:
        point: Array = self._start + self._basis @ z
        return point

    def _draw(self, member: int) -> Array:
        self._cma.reseed_rng(seed_for(self._seed, "evolution", self._generation, member))
        for _ in range(TRIES):
            z: Array = self._cma.ask()
            if self._inside(z):
                break
        return z

    def _inside(self, z: Array) -> bool:
        point = self._at(z)
        return bool(np.all((self._low <= point) & (point <= self._high)))
