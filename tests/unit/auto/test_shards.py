"""An ask that several workers share comes to what one worker would have answered."""

from collections import Counter

import numpy as np
import pytest
from quadratics import landscape

from optimizer.auto.shards import LEAST, cut, shard_scales


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("shards", [1, 2, 3, 4])
@pytest.mark.parametrize("examples", [16, 33, 160])
def test_the_gradients_of_the_parts_add_up_to_the_whole_ones(tasks: int, shards: int, examples: int) -> None:
    known = landscape(tasks)
    ids = known.ids["gradient"][:examples]
    scales = {f"t{number}": 0.3 + number for number in range(tasks)}
    point = np.full(known.optima.shape[1], 0.4)
    whole, losses = known.gradient(point, ids, scales)
    total = np.zeros_like(point)
    by_id: dict[str, float] = {}
    for part in cut(ids, shards):
        found, own = known.gradient(point, part, shard_scales(part, ids, scales))
        total += found
        by_id.update(zip(part, own, strict=True))
    assert total == pytest.approx(whole)
    assert [by_id[name] for name in ids] == pytest.approx(losses)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 15, 16, 17, 100])
@pytest.mark.parametrize("shards", [0, 1, 3, 8])
def test_every_example_is_in_exactly_one_part(count: int, shards: int) -> None:
    ids = [f"t:{number}" for number in range(count)]
    parts = list(cut(ids, shards))
    assert Counter(name for part in parts for name in part) == Counter(ids)
    assert len(parts) <= max(1, shards)
    if len(parts) > 1:
        sizes = [len(part) for part in parts]
        assert min(sizes) >= LEAST
        assert max(sizes) - min(sizes) <= 1


def test_nothing_is_cut_into_no_parts() -> None:
    assert list(cut([], 4)) == []


def test_tasks_that_stand_in_a_row_are_spread_over_all_parts() -> None:
    ids = [f"{task}:{number}" for task in ("a", "b") for number in range(32)]
    for part in cut(ids, 4):
        assert Counter(name.partition(":")[0] for name in part) == {"a": 8, "b": 8}


def test_a_task_without_a_scale_has_none_in_any_part() -> None:
    ids = ["a:1", "a:2", "b:1", "b:2"]
    assert shard_scales(ids[1:3], ids, {"a": 1.0}) == {"a": 0.5, "b": 0.0}
