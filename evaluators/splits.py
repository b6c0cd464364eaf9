"""Which split each document of a task belongs to, decided by its content alone."""

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evaluators.protocol import SPLITS, EvaluatorError, Split
from evaluators.shares import Limits, Splits

Document = Mapping[str, Any]
Origin = Literal["validation", "test"]

# Not a setting: with another salt the test examples of one job would be the search examples of the next.
SALT = "mergeopt splits 1"


@dataclass(frozen=True)
class Placed:
    """One document with its id and split. `position` is its place among the documents of `origin`."""

    id: str
    split: Split
    origin: Origin
    position: int


@dataclass(frozen=True)
class Counts:
    """What became of a task's documents: how many each split got, and how many were left out, and why.

    `duplicates`: a document with the same content was already kept. `leaked`: a validation document that is
    also a test document. `over_limit`: beyond the limit per split.
    """

    search: int
    select: int
    test: int
    duplicates: int
    leaked: int
    over_limit: int
    gradient: int = 0


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    raise EvaluatorError(
        f"a document is known by the JSON of its fields, but one of them is a {type(value).__name__}. "
        "Use a data set of plain fields (text, numbers, lists)."
    )


def content_hash(document: Document) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the document's canonical JSON (keys sorted, no spaces)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def draw(content: str) -> float:
    """A number in [0, 1) that belongs to a content hash.

    It does not depend on the task, so a document that two tasks share falls into the same split of both.
    """
    digest = hashlib.sha256(f"{SALT}:{content}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def choose(content: str, weights: Mapping[Split, float]) -> Split:
    """The split a content hash is dealt to, with probabilities in the ratio of `weights`."""
    point = draw(content) * sum(weights.values())
    reached = 0.0
    for split, weight in weights.items():
        reached += weight
        if point < reached:
            return split
    return split  # the sum above may round to just below the point


def assign(
    task: str,
    validation: Sequence[Document] | None,
    test: Sequence[Document] | None,
    splits: Splits,
    limit: Limits | None = None,
) -> tuple[list[Placed], Counts]:
    """Deal a task's documents to the splits; placements come sorted by split (in the order of `SPLITS`), then id.

    With both kinds of documents, validation documents go to gradient, search and select and test documents to test;
    with one kind, it is dealt to all. The same content is kept once, and a validation document that
    is also a test document is left out, so no test example was ever searched on.
    """
    searched: dict[Split, float] = {"gradient": splits.gradient, "search": splits.search, "select": splits.select}
    weights: dict[Split, float] = {**searched, "test": splits.test}
    of_test = _first_of_each(test or ())
    of_validation = _first_of_each(validation or ())
    clean = {content: position for content, position in of_validation.items() if content not in of_test}

    dealt: list[tuple[str, Split, Origin, int]] = []
    if validation and test:
        dealt += [(content, choose(content, searched), "validation", at) for content, at in clean.items()]
        dealt += [(content, "test", "test", at) for content, at in of_test.items()]
    else:
        dealt += [(content, choose(content, weights), "validation", at) for content, at in clean.items()]
        dealt += [(content, choose(content, weights), "test", at) for content, at in of_test.items()]

    placed: list[Placed] = []
    for split in SPLITS:
        mine = sorted(row for row in dealt if row[1] == split)
        most = getattr(limit, split, None)
        placed += [Placed(f"{task}:{content}", split, origin, at) for content, _, origin, at in mine[:most]]
    sizes = {split: sum(row.split == split for row in placed) for split in SPLITS}
    seen = len(validation or ()) + len(test or ())
    return placed, Counts(
        **sizes,
        duplicates=seen - len(of_validation) - len(of_test),
        leaked=len(of_validation) - len(clean),
        over_limit=len(dealt) - len(placed),
    )


def _first_of_each(documents: Iterable[Document]) -> dict[str, int]:
    """Content hash to the position of the first document that has it, in the order met."""
    positions: dict[str, int] = {}
    for position, document in enumerate(documents):
        positions.setdefault(content_hash(document), position)
    return positions
