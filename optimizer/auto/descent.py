"""Gradient descent on coefficients: Adam in a subspace, kept within the space's bounds, iterates averaged."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FIRST, SECOND = 0.9, 0.99  # decay of Adam's two moments (Kingma and Ba 2015, arXiv 1412.6980); short, as runs are


@dataclass
class Descent:
    """Adam on z, where the point is start + basis @ z.

    A step that leaves the bounds is projected back on them. `average` is the mean of the iterates since
    `restart_average` (Polyak and Juditsky 1992): what a descent with noisy gradients should answer.
    """

    point: Array
    basis: Array
    low: Array
    high: Array
    steps: int = 0
    _first: Array = field(init=False)
    _second: Array = field(init=False)
    _sum: Array = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        self._first = np.zeros(self.basis.shape[1])
        self._second = np.zeros(self.basis.shape[1])
        self._sum = np.zeros_like(self.point)

    @property
    def average(self) -> Array:
        """The mean iterate; the point itself before the first step."""
        if not self._count:
            return self.point
        # only undoes rounding: the iterates are within the bounds
        return np.clip(self._sum / self._count, self.low, self.high)

    def restart_average(self) -> None:
        """Forget the iterates so far: they were on the way."""
        self._sum, self._count = np.zeros_like(self.point), 0

    def step(self, gradient: Array, rate: float) -> None:
        """One step of at most about `rate` per coordinate against the gradient by the point."""
        self.steps += 1
        slope = self.basis.T @ gradient
        self._first = FIRST * self._first + (1 - FIRST) * slope
        self._second = SECOND * self._second + (1 - SECOND) * slope**2
        first = self._first / (1 - FIRST**self.steps)
        second = self._second / (1 - SECOND**self.steps)
        moved = self.point - self.basis @ (rate * first / (np.sqrt(second) + 1e-12))
        self.point = np.clip(moved, self.low, self.high)
        self._sum = self._sum + self.point
        self._count += 1
