"""Share one ask among several workers."""

from collections.abc import Iterator, Mapping, Sequence

from optimizer.auto.values import task_of

LEAST = 4  # examples of a shard: fewer cost a worker more to prepare than to answer
LEAST_OF_GRADIENT = 1  # one costs as much as three scored, and gradients are most of what workers wait for


def cut(ids: Sequence[str], shards: int, least: int = LEAST) -> Iterator[tuple[str, ...]]:
    """The examples in at most `shards` parts of nearly equal size, `least` or more in each; none where there are none.

    Every part takes each n-th example, so that tasks are spread over all of them.
    """
    count = max(1, min(shards, len(ids) // least))
    for shard in range(count):
        part = tuple(ids[shard::count])
        if part:
            yield part


def shard_scales(shard: Sequence[str], whole: Sequence[str], scales: Mapping[str, float]) -> dict[str, float]:
    """The tasks' scales for a part of a gradient batch, so that the parts' gradients add up to the whole one's."""
    here, all_of_it = _counts(shard), _counts(whole)
    return {task: scales.get(task, 0.0) * count / all_of_it[task] for task, count in here.items()}


def _counts(ids: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in ids:
        found[task_of(name)] = found.get(task_of(name), 0) + 1
    return found
