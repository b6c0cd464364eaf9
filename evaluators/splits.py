"""Which split each document of a task belongs to, decided by its content alone."""

import datetime
import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evaluators.protocol import SPLITS, EvaluatorError, Split
from evaluators.shares import Limits, Splits

Document = Mapping[str, Any]
Origin = Literal["validation", "test", "training"]
Question = Callable[[Document], Any]
"""What a document asks, as plain data: documents that ask the same are the same to a search."""
_Dealt = tuple[str, Split, Origin, int]  # content hash, split, origin, position

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

    `duplicates`: another document that is the same was kept. `leaked`: a validation document that is also a test
    document, or a training document that is also one of the others. `over_limit`: beyond the limit of its split, or
    more training documents than the share of `gradient` asks for.
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


def sameness(value: Any) -> str:
    """The hash of a document, or of what it asks, by which it is known whatever its case, spaces and Unicode forms.

    Every string in it is brought to NFKC and case-folded (Unicode 3.13, default caseless matching), its runs of white
    space made one space, none at the ends. Two documents with the same one are the same document.
    """
    return content_hash({"": _plainer(value)})


def _plainer(value: Any) -> Any:
    if isinstance(value, str):
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
        return " ".join(folded.split())
    if isinstance(value, Mapping):
        return {name: _plainer(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plainer(one) for one in value]
    return _plainer(value.tolist()) if hasattr(value, "tolist") else value


def assign(
    task: str,
    validation: Sequence[Document] | None,
    test: Sequence[Document] | None,
    splits: Splits,
    limit: Limits | None = None,
    training: Sequence[Document] | None = None,
    question: Question | None = None,
) -> tuple[list[Placed], Counts]:
    """Deal a task's documents to the splits; placements come sorted by split (in the order of `SPLITS`), then id.

    With both kinds of documents, validation documents go to gradient, search and select and test documents to test;
    with one kind, it is dealt to all. Where there are training documents, gradient takes them, and none of the others:
    as many as its limit says, or else as many for one of search as the weights say. None is taken at weight 0.

    Documents are the same where what they ask (`question`; the whole document where None) has the same `sameness`.
    They are kept once, whose hash comes first, so that the order of a data file decides nothing. A validation document
    that is also a test document is left out, and a training document that is also one of these: no test
    example was ever searched on, and no example that is scored ever followed.
    """
    taught = _kept(training or (), question) if splits.gradient > 0 else {}
    searched: dict[Split, float] = {"gradient": splits.gradient, "search": splits.search, "select": splits.select}
    if taught:
        del searched["gradient"]
    weights: dict[Split, float] = {**searched, "test": splits.test}
    of_test = _kept(test or (), question)
    of_validation = _kept(validation or (), question)
    clean = {key: one for key, one in of_validation.items() if key not in of_test}
    fresh = {key: one for key, one in taught.items() if key not in of_test and key not in of_validation}

    dealt: list[_Dealt] = [(content, "gradient", "training", at) for content, at in fresh.values()]
    if validation and test:
        dealt += [(content, choose(content, searched), "validation", at) for content, at in clean.values()]
        dealt += [(content, "test", "test", at) for content, at in of_test.values()]
    else:
        dealt += [(content, choose(content, weights), "validation", at) for content, at in clean.values()]
        dealt += [(content, choose(content, weights), "test", at) for content, at in of_test.values()]

    chosen = {split: sorted(row for row in dealt if row[1] == split) for split in SPLITS}
    for split in SPLITS:
        chosen[split] = chosen[split][: getattr(limit, split, None)]
    if taught and getattr(limit, "gradient", None) is None:
        share = math.ceil(len(chosen["search"]) * splits.gradient / splits.search)
        chosen["gradient"] = chosen["gradient"][:share]
    placed = [
        Placed(f"{task}:{content}", split, origin, at)
        for rows in chosen.values()
        for content, split, origin, at in rows
    ]
    seen = len(validation or ()) + len(test or ()) + (len(training or ()) if taught else 0)
    kept = len(of_validation) + len(of_test) + len(taught)
    return placed, Counts(
        **{split: len(rows) for split, rows in chosen.items()},
        duplicates=seen - kept,
        leaked=len(of_validation) - len(clean) + len(taught) - len(fresh),
        over_limit=len(dealt) - len(placed),
    )


def _kept(documents: Sequence[Document], question: Question | None) -> dict[str, tuple[str, int]]:
    """For everything that is asked, the content hash and position of the document that stands for it."""
    found: dict[str, tuple[str, int]] = {}
    for position, document in enumerate(documents):
        key = sameness(document if question is None else question(document))
        this = (content_hash(document), position)
        found[key] = min(found.get(key, this), this)
    return found
