"""How long the task vectors are, group by group."""

from merging.errors import MergeError
from merging.groups import group_of, is_merged
from merging.pieces import pieces
from merging.sources import Sources


def squared_norms(sources: Sources) -> dict[str, dict[str, float]]:
    """|tau_k|^2 for every expert and every group that is merged; their sum over groups is the whole model's.

    Squares and their sums are float64 over differences in float32. Reads all weights once. Raises `MergeError` where
    there is no base.
    """
    if sources.base is None:
        raise MergeError("a task vector is what an expert adds to a base, but there is none; name a `base`.")
    found = {expert: {group.name: 0.0 for group in sources.groups} for expert in sources.experts}
    for name in sources.reference.names:
        if not (sources.reference.is_float(name) and is_merged(name, sources.unmerged)):
            continue
        group, base = group_of(name).name, sources.base.tensor(name)
        for expert, checkpoint in sources.experts.items():
            for ours, theirs in zip(pieces(base), pieces(checkpoint.tensor(name)), strict=True):
                found[expert][group] += float((theirs.float() - ours.float()).double().square().sum())
    return found
