"""Take of each entry the largest change that any expert makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merging.methods.arithmetic import present, task_vectors
from merging.methods.method import At, Method, NoStructure, always

if TYPE_CHECKING:
    from torch import Tensor


def unified(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Tensor:
    """base + sgn * the largest magnitude among the w_i tau_i that have the sign of their sum.

    EMR-Merging, arXiv 2405.17461, equations 3 and 4: the unified task vector. Nothing is added where the sum is zero.
    The paper rebuilds expert i at run time as base + l_i m_i tau_uni, with m_i = 1[tau_i tau_uni > 0] and
    l_i = sum |tau_i| / sum |m_i tau_uni|, the sums over the whole model; that needs to know the task of each input, so
    it is no static merge and not done here.
    """
    entries = [direction * weight for weight, direction in zip(at.row, directions, strict=True)]
    sign = entries[0].clone()
    for entry in entries[1:]:
        sign.add_(entry)
    sign.sign_()
    merged = sign.new_zeros(sign.shape)
    for entry in entries:
        merged = merged.maximum(entry.mul_(sign))
    return merged.mul_(sign).add_(present(base).float())


def largest(base: Tensor | None, directions: Sequence[Tensor], at: At[Any]) -> Tensor:
    """base + the w_i tau_i of the largest magnitude, the first among equals (MagMax, arXiv 2407.06322, section 3)."""
    merged = directions[0] * at.row[0]
    for weight, direction in zip(at.row[1:], directions[1:], strict=True):
        entry = direction * weight
        # 1 where it wins, 0 elsewhere: faster than a choice by boolean mask
        wins = entry.abs().sub_(merged.abs()).gt_(0)
        merged = entry.mul_(wins).add_(merged.mul_(wins.neg_().add_(1)))
    return merged.add_(present(base).float())


EMR = Method(
    name="emr",
    summary="Elect a sign per entry and take the largest change that agrees: the unified part of EMR-Merging.",
    paper="EMR-Merging, arXiv 2405.17461",
    needs_base=True,
    linear=False,
    structure=NoStructure,
    directions=task_vectors,
    combine=unified,
    elementwise=always,
)

MAGMAX = Method(
    name="magmax",
    summary="Take of each entry the largest change that any expert makes.",
    paper="MagMax, arXiv 2407.06322",
    needs_base=True,
    linear=False,
    structure=NoStructure,
    directions=task_vectors,
    combine=largest,
    elementwise=always,
)
