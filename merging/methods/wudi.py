"""The task vector whose matrices interfere least with what each expert's matrix reads from its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from merging.frozen import Frozen
from merging.methods.arithmetic import add_up
from merging.methods.method import At, Method
from merging.methods.searchable import Range
from merging.methods.spectra import matrix_directions, mean_parts

if TYPE_CHECKING:
    from torch import Tensor


class Wudi(Frozen):
    """Settings of `wudi`."""

    ridge: Annotated[float, Range(1e-3, 1e2, log=True)] = Field(
        default=1.0, gt=0, description="how strongly the result is held at the sum, in means of the diagonal"
    )


def least_interference(vectors: list[Tensor], at: At[Wudi]) -> list[Tensor]:
    """tau_i (G_i + r) (sum G_k + r)^-1 with G_i = tau_i^T tau_i / |tau_i|^2, r the ridge (after arXiv 2503.08099).

    Their sum T minimises sum |(T - tau_i) tau_i^T|^2 / |tau_i|^2 + r |T - sum tau_i|^2. The first term is the paper's,
    who take some steps of Adam from sum tau_i, which an Adam of another step size ends elsewhere; the second is the
    closed form's way of staying near to it. Task vectors that read disjoint inputs give the sum.
    """
    import torch

    alive = [vector for vector in vectors if bool(vector.any())]
    if not alive:
        return vectors
    total = torch.zeros_like(vectors[0].T @ vectors[0])
    for vector in alive:
        total.addmm_(vector.T, vector, alpha=1 / vector.square().sum().item())
    held = at.structure.ridge * total.diagonal().mean().item()
    total.diagonal().add_(held)
    factor = torch.linalg.cholesky(total)
    parts = []
    for vector in vectors:
        squared = vector.square().sum().item()
        pull = torch.linalg.multi_dot([vector, vector.T, vector]).div_(squared or 1.0).add_(vector, alpha=held)
        parts.append(torch.cholesky_solve(pull.T, factor).T)
    return parts


WUDI = Method(
    name="wudi",
    summary="The least-squares task vector that disturbs no expert's own directions, held near the sum.",
    paper="WUDI-Merging, arXiv 2503.08099",
    needs_base=True,
    linear=True,
    structure=Wudi,
    directions=matrix_directions(least_interference, mean_parts),
    combine=add_up,
    keeps_directions=True,
)
