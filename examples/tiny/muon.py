"""Muon in float32: momentum made orthogonal, for matrices of the same shape at once.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks". `torch.optim.Muon` works matrix
by matrix in bfloat16, which takes most of a training step on a CPU without bfloat16 arithmetic.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised; the step is `rate · sqrt(max(1, rows / columns))`."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for same in _by_shape(group["params"]):
                self._step(same, group)

    def _step(self, same: list[Tensor], group: dict[str, Any]) -> None:
        updates = []
        for parameter in same:
            gradient = parameter.grad
            assert gradient is not None
            average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            average.lerp_(gradient, 1 - group["momentum"])
            updates.append(gradient.lerp(average, group["momentum"]))
        rows, columns = same[0].shape
        rate = group["lr"] * max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(same, orthogonal(torch.stack(updates)), strict=True):
            parameter.add_(update, alpha=-rate)


def _by_shape(parameters: list[Tensor]) -> list[list[Tensor]]:
    found: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        found.setdefault(parameter.shape, []).append(parameter)
    return list(found.values())


def orthogonal(stack: Tensor, steps: int = 5) -> Tensor:
    """Nearly `U Vᵀ` for each matrix `U S Vᵀ` of `[matrices, rows, columns]`, by five quintic Newton-Schulz steps."""
    a, b, c = 3.4445, -4.775, 2.0315
    tall = stack.shape[-2] > stack.shape[-1]
    x: Tensor = stack.mT if tall else stack
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
