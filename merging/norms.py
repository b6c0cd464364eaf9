"""How long the task vectors are, group by group."""

from merging.groups import group_of, is_merged
from merging.sources import Sources
from merging.whole import Whole


def squared_norms(sources: Sources) -> dict[str, dict[str, float]]:
    """|tau_k|^2 for every expert and every group that is merged; their sum over groups is the whole model's.

    Squares and their sums are float64 over differences in float32. Reads all weights once. Raises `MergeError` where
    there is no base.
    """
    names: dict[str, list[str]] = {group.name: [] for group in sources.groups}
    for name in sources.reference.names:
        if sources.reference.is_float(name) and is_merged(name, sources.unmerged):
            names[group_of(name).name].append(name)
    base = sources.base.tensor if sources.base is not None else None
    readers = [expert.tensor for expert in sources.experts.values()]
    found = {group: Whole(own, base, readers).squared_norms() for group, own in names.items()}
    return {
        expert: {group: squares[position] for group, squares in found.items()}
        for position, expert in enumerate(sources.experts)
    }
