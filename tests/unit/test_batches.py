"""Batches hold every task, are fresh each time, and belong to the seed alone."""

import pytest

from optimizer.batches import Batches, batches_of

SPLIT = {"math": [f"math:{i}" for i in range(100)], "code": [f"code:{i}" for i in range(50)], "few": ["few:0", "few:1"]}


def _batches(size: int = 32, seed: int = 0) -> Batches:
    return batches_of([(task, name) for task, names in SPLIT.items() for name in names], size, seed)


def test_a_batch_has_its_size_and_every_task_by_its_share() -> None:
    shares = _batches().shares()
    assert shares == {"math": 20, "code": 10, "few": 2}
    for number in range(20):
        batch = _batches().batch(number)
        assert len(batch) == len(set(batch)) == 32
        assert {task: sum(name.startswith(task) for name in batch) for task in SPLIT} == shares


def test_batches_are_fresh_until_a_task_has_been_passed_through() -> None:
    seen = [name for number in range(5) for name in _batches().batch(number) if name.startswith("math")]
    assert sorted(seen) == sorted(SPLIT["math"])
    again = [name for number in range(5, 10) for name in _batches().batch(number) if name.startswith("math")]
    assert sorted(again) == sorted(seen)
    assert again != seen


def test_a_batch_belongs_to_the_seed_and_its_number() -> None:
    assert _batches().batch(7) == _batches().batch(7)
    assert _batches().batch(7) != _batches(seed=1).batch(7)
    assert _batches().screen() == _batches().screen() != _batches().batch(0)


def test_the_screen_is_no_batch_of_its_own_making() -> None:
    screen = _batches().screen()
    assert {task: sum(name.startswith(task) for name in screen) for task in SPLIT} == _batches().shares()


@pytest.mark.parametrize(("size", "said"), [(5, "at least 2 examples of each task, 6 in all"), (77, "half of the 152")])
def test_a_size_that_cannot_be_had_is_refused(size: int, said: str) -> None:
    assert said in str(_batches(size).shortage())


def test_a_size_that_can_be_had_is_not() -> None:
    assert _batches(6).shortage() is None
    assert _batches(76).shortage() is None
