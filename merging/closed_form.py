"""Merge whole models by a closed form that needs statistics of every expert: RegMean, or Fisher."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from merging.errors import MergeError
from merging.folder import write_model
from merging.groups import is_merged
from merging.methods.fisher import merged_tensor
from merging.methods.regmean import ALPHA, RIDGE, merged_layer
from merging.pieces import pieces
from merging.recipe import Recipe
from merging.sources import Sources
from merging.statistics import Statistics
from merging.step import take_into

Merged = Callable[[str, Sequence[Tensor]], Tensor | None]
"""A tensor's name and the experts' tensors to the merge in float32; None where the experts are averaged."""


def regmean_tensors(sources: Sources, statistics: Mapping[str, Statistics]) -> Iterator[tuple[str, Tensor]]:
    """RegMean: the least squares merge of every linear layer, the average of other tensors (see `regmean`).

    `statistics` are the Gram matrices of every expert of `sources`. Names, order and dtypes are those of `materialize`.
    Layers that some expert has no Gram matrix for are averaged. Raises `MergeError` for statistics that do not fit.
    """
    opened = _opened(sources, statistics, "gram")

    equal = (1.0,) * len(opened)
    return _tensors(sources, lambda name, experts: merged_layer(name, experts, opened, equal, ALPHA, RIDGE))


def fisher_tensors(sources: Sources, statistics: Mapping[str, Statistics]) -> Iterator[tuple[str, Tensor]]:
    """Fisher merging of every tensor that has statistics, the average of others (see `fisher_average`).

    `statistics` are the mean squared gradients of every expert of `sources`. Each expert's are divided by their norm
    over the whole model first, so that a loss of another scale does not drown the others. The rest is as in
    `regmean_tensors`.
    """
    opened = _opened(sources, statistics, "fisher")
    equal = (1.0,) * len(opened)
    return _tensors(sources, lambda name, experts: merged_tensor(name, experts, opened, equal))


def write_tensors(
    tensors: Iterator[tuple[str, Tensor]],
    template: Recipe,
    sources: Sources,
    folder: Path,
    card_text: str,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write what `regmean_tensors` or `fisher_tensors` gave as a model folder, as `merging.folder` writes a merge.

    `template` names the models of `sources`. Raises `MergeError` where the folder exists or the merge fails, and
    leaves nothing behind then.
    """
    plain = template.model_copy(update={"dtype": None})
    return write_model(tensors, plain, sources, folder, lambda: {"README.md": card_text}, max_shard_bytes)


def _tensors(sources: Sources, merged: Merged) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by name, in sorted order, in the dtype of the base; see `materialize`."""
    reference = sources.reference
    for name in reference.names:
        stored = reference.tensor(name)
        if not reference.is_float(name):
            yield name, stored.clone()
            continue
        out = torch.empty(stored.shape, dtype=stored.dtype)
        if not is_merged(name, sources.unmerged):
            take_into(out, name, stored)
            yield name, out
            continue
        experts = [expert.tensor(name) for expert in sources.experts.values()]
        found = merged(name, experts)
        if found is None:
            _average_into(out, experts)
        else:
            out.copy_(found)
        if not bool(out.isfinite().all()):
            raise MergeError(
                f"`{name}` must be finite, but the merge holds NaN or infinity as "
                f"{str(out.dtype).removeprefix('torch.')}; check the models for broken weights."
            )
        yield name, out


def _average_into(out: Tensor, experts: Sequence[Tensor]) -> None:
    for target, *parts in zip(*(pieces(tensor) for tensor in (out, *experts)), strict=True):
        total = parts[0].float().clone()
        for part in parts[1:]:
            total.add_(part.float())
        target.copy_(total.div_(len(parts)))


def _opened(sources: Sources, statistics: Mapping[str, Statistics], kind: str) -> list[Statistics]:
    """One for every expert, in order."""
    missing = [expert for expert in sources.experts if expert not in statistics]
    if missing:
        raise MergeError(
            f"every expert must have statistics, but {', '.join(missing)} have none; there is: "
            f"{', '.join(statistics) or 'nothing'}."
        )
    found = [statistics[expert] for expert in sources.experts]
    for expert, one in zip(sources.experts, found, strict=True):
        if one.kind != kind:
            raise MergeError(f"the statistics of `{expert}` must be of the kind {kind}, but are {one.kind}.")
        strangers = [name for name in one.names if name not in sources.reference.shapes]
        if strangers:
            raise MergeError(
                f"the statistics of `{expert}` must be of this model, which has no tensor `{strangers[0]}`; collect "
                "them under the names its checkpoint has (`LiveMerge.targets`)."
            )
    return found
