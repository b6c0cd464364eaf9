"""A task's documents as examples: dealt to the splits, picked by their ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar

from evaluators.protocol import NEEDED, EvaluatorError, Example
from evaluators.shares import Limits, Splits
from evaluators.splits import Counts, Document, Placed, assign

Item = TypeVar("Item")


@dataclass(frozen=True)
class Dealt:
    """The documents that were kept, by example id, with their examples; and what became of the others."""

    examples: list[Example]
    documents: dict[str, Document]
    counts: Counts


def deal(task: str, documents: Sequence[Document], splits: Splits, limit: Limits | None) -> Dealt:
    """Deal documents to the splits by their content. Raises `EvaluatorError` where a split stays empty."""
    placed, counts = assign(task, None, documents, splits, limit)
    check_every_split(task, placed, counts)
    return Dealt(
        examples=[Example(row.id, task, row.split) for row in placed],
        documents={row.id: documents[row.position] for row in placed},
        counts=counts,
    )


def check_every_split(task: str, placed: Sequence[Placed], counts: Counts) -> None:
    """Raise `EvaluatorError` where a split has no example of the task; there need be none for `gradient`."""
    for split in NEEDED:
        if not any(row.split == split for row in placed):
            raise EvaluatorError(
                f"every split needs an example of every task, but `{task}` has none for `{split}` "
                f"(gradient {counts.gradient}, search {counts.search}, select {counts.select}, test {counts.test}). "
                f"Give the task more documents, or `{split}` a larger share."
            )


def pick(items: Mapping[str, Item], ids: Sequence[str]) -> dict[str, Item]:
    """The items of `ids`, each once, in the order of `items`. Raises `EvaluatorError` for an id that is not there."""
    asked_for = dict.fromkeys(ids)
    unknown = [name for name in asked_for if name not in items]
    if unknown:
        tasks = dict.fromkeys(name.rpartition(":")[0] for name in items)
        near = get_close_matches(unknown[0], items, n=3)
        raise EvaluatorError(
            f"`{unknown[0]}` is not one of the {len(items)} examples of {', '.join(tasks)}"
            + (f"; nearest: {', '.join(near)}." if near else ". Were the task's documents changed?")
        )
    return {name: item for name, item in items.items() if name in asked_for}
