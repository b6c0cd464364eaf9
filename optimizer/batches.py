"""Fresh batches of the search split: what candidates are scored on where scoring all of it would be a waste."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimizer.engines.seeds import seed_for

LEAST = 2  # examples of a task: one cannot be told from chance at all


@dataclass(frozen=True)
class Batches:
    """Batches of `size` examples, every task in each by its share of the split.

    A batch belongs to the job's seed and its number alone. Within one pass over a task no example comes twice; each
    pass has a new order, so what is left over at the end of one is not always the same.
    """

    examples: Mapping[str, Sequence[str]]
    size: int
    seed: int

    def shortage(self) -> str | None:
        """Why batches of this size cannot be had, None where they can."""
        total, least = sum(map(len, self.examples.values())), LEAST * len(self.examples)
        if self.size < least:
            return f"a batch must have at least {LEAST} examples of each task, {least} in all, but has {self.size}"
        if self.size * 2 > total:
            return f"a batch must be at most half of the {total} examples of the search split, but is {self.size}"
        return None

    def batch(self, number: int) -> list[str]:
        """The examples that every member of generation `number` is scored on."""
        return [one for task, share in self.shares().items() for one in self._some(task, share, number)]

    def screen(self) -> list[str]:
        """The examples that every baseline is scored on: as many, drawn apart from the batches."""
        return [one for task, share in self.shares().items() for one in self._order(task, "screen")[:share]]

    def shares(self) -> dict[str, int]:
        """How many examples of each task a batch has: in proportion to the split, at least `LEAST`, `size` in all."""
        return shares(self.examples, self.size)

    def _some(self, task: str, share: int, number: int) -> Sequence[str]:
        in_one_pass = len(self.examples[task]) // share
        passes, place = divmod(number, in_one_pass)
        return self._order(task, f"pass {passes}")[place * share : (place + 1) * share]

    def _order(self, task: str, purpose: str) -> list[str]:
        order = list(self.examples[task])
        random.Random(seed_for(self.seed, "batches", task, purpose)).shuffle(order)
        return order


def batches_of(examples: Iterable[tuple[str, str]], size: int, seed: int) -> Batches:
    """Batches of these examples of the search split, each given by its task and its id."""
    by_task: dict[str, list[str]] = {}
    for task, name in examples:
        by_task.setdefault(task, []).append(name)
    return Batches(by_task, size, seed)


def shares(examples: Mapping[str, Sequence[str]], count: int) -> dict[str, int]:
    """How many of `count` examples each task gives, in proportion to what it has, `LEAST` or more where it has them."""
    total = sum(map(len, examples.values()))
    count = min(count, total)
    found = {task: min(LEAST, len(ids)) for task, ids in examples.items()}
    while sum(found.values()) < count:
        unspent = [task for task in examples if found[task] < len(examples[task])]
        found[max(unspent, key=lambda task: count * len(examples[task]) / total - found[task])] += 1
    return found
