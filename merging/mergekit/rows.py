"""The vocabulary of a merge config's result, and which rows of each model its tokens have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from merging.errors import MergeError
from merging.mergekit.grammar import MergeConfig, ModelToken, Tokenizer, TokenRow, ZeroToken
from merging.mergekit.open import Opened
from merging.mergekit.plan import Planned
from merging.mergekit.reference import ModelReference, located_reference
from merging.step import Read
from merging.tied import is_by_token
from merging.tokenizers.by_token import Row, RowPlan
from merging.tokenizers.known import KnownTokens, embedding_rows, known_tokens, tokens_in
from merging.tokenizers.one import OneTokenizer
from merging.tokenizers.report import model_lines, token_report


@dataclass(frozen=True)
class Vocabulary:
    """`size` is the number of rows of the result's embeddings, `tokenizer` the one it gets; None where they are the
    first model's. `remarks` say what is worth knowing before the merge."""

    known: Mapping[str, KnownTokens]
    said: Tokenizer | None
    size: int | None = None
    tokenizer: OneTokenizer | None = None
    remarks: tuple[str, ...] = ()
    _plans: dict[tuple[str | None, ...], RowPlan] = field(default_factory=dict, repr=False)

    def rows(self, planned: Planned) -> tuple[tuple[int, ...], list[Read]] | None:
        """Shape and readers of a tensor with a row for each token, where its rows are rearranged or cut."""
        if not is_by_token(planned.name):
            return None
        reads: list[Read] = [partial(one.checkpoint.tensor, one.name) for one in planned.inputs]
        shapes = [one.checkpoint.shapes[one.name] for one in planned.inputs]
        if any(shape[1:] != shapes[0][1:] for shape in shapes):
            return None
        if self.tokenizer is None:
            if self.size is None or any(shape[0] < self.size for shape in shapes):
                return None
            return (self.size, *shapes[0][1:]), [partial(_cut, read, self.size) for read in reads]
        labels = tuple(one.label.partition("#")[0] for one in planned.inputs)
        base = next((position for position, one in enumerate(planned.inputs) if one.is_base), None)
        key = (*labels, labels[base] if base is not None else None)
        if key not in self._plans:
            self._plans[key] = self._plan(labels, base)
        plan = self._plans[key]
        return plan.shape(shapes[0]), plan.rearranged(reads)

    def _plan(self, labels: Sequence[str], base: int | None) -> RowPlan:
        assert self.tokenizer is not None
        assert self.size is not None
        models = [self.known[label] for label in labels]
        count = self.tokenizer.rows
        own = [[-1] * count for _ in models]
        for token, row in self.tokenizer.ids.items():
            for position, model in enumerate(models):
                own[position][row] = model.ids.get(token, -1)
        said = (self.said.tokens if self.said else None) or {}
        fills: dict[int, tuple[Row, ...]] = {}
        given = []
        for token, row in self.tokenizer.ids.items():
            wanted = said.get(token)
            have = [(position, rows[row]) for position, rows in enumerate(own) if rows[row] >= 0]
            if wanted is not None and wanted.force:
                given.append(row)
            elif len(have) == len(models):
                continue
            fills[row] = self._said(token, wanted, labels) if wanted is not None else _usual(have, base)
        return RowPlan(count, self.size, tuple(map(tuple, own)), fills, frozenset(given))

    def _said(self, token: str, wanted: TokenRow, labels: Sequence[str]) -> tuple[Row, ...]:
        """The row that the config names. Raises `MergeError` where there is none."""
        source = wanted.source
        if isinstance(source, ZeroToken):
            return ()
        if source is None:
            raise MergeError(f"`tokenizer.tokens` must have a `source` for {token!r}, but has none.")
        label = str(source.model if isinstance(source, ModelToken) else source)
        if label not in labels:
            raise MergeError(f"the row of {token!r} is to come from {label}, but that is none of {', '.join(labels)}.")
        model = self.known[label]
        if isinstance(source, ModelToken) and source.token_id is not None:
            row: int | None = source.token_id if source.token_id < model.rows else None
            what = f"token {source.token_id}"
        else:
            name = source.token if isinstance(source, ModelToken) and source.token is not None else token
            row, what = model.ids.get(name), f"token {name!r}"
        if row is None:
            raise MergeError(f"the row of {token!r} is to be that of {what} in {label}, which has no such token.")
        return ((labels.index(label), row),)


def vocabulary_of(config: MergeConfig, opened: Opened, folder: Path) -> Vocabulary:
    """`folder` is where local paths begin.

    Raises `MergeError` where tokens are to be put together and a model's cannot be read, or rows cannot be cut.
    """
    said = config.tokens()
    known = {label: tokens for label, model in opened.items() if (tokens := known_tokens(model)) is not None}
    if said is None:
        return _as_they_are(known, opened)
    remarks = []
    first = next(iter(opened))
    if first not in known:
        raise MergeError(
            f"{opened[first].folder}: must have a tokenizer.json, because tokens are put together, but has none; make "
            "one: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`."
        )
    for label, model in opened.items():
        if label not in known:
            known[label] = known_tokens_like(known[first], embedding_rows(model))
            remarks.append(f"{label} has no tokenizer.json: its tokens are taken to be those of {first}.")
    more = list(said.tokens or {})
    if said.source == "union":
        others = [known[label] for label in opened if label != first]
        tokenizer = OneTokenizer(known[first], others, more)
    else:
        start = known[first] if said.source == "base" else _named(said.source, known, folder)
        tokenizer = OneTokenizer(start, (), more)
    step = said.pad_to_multiple_of or 1
    size = -(-tokenizer.rows // step) * step
    remarks += model_lines(token_report({label: known[label] for label in opened}))
    remarks.append(f"The result has {len(tokenizer.ids)} tokens in {size} rows.")
    return Vocabulary(known, said, size, tokenizer, tuple(remarks))


def _named(source: ModelReference, known: Mapping[str, KnownTokens], folder: Path) -> KnownTokens:
    """The tokens of a model of the merge, or of a local folder beside it."""
    if str(source) in known:
        return known[str(source)]
    place = Path(located_reference(source, folder, {}).model.path)
    found = tokens_in(place) if place.is_dir() else None
    if found is None:
        raise MergeError(
            "`tokenizer.source` must be union, base, a model of the merge or a folder with a tokenizer.json, "
            f"but is {source}."
        )
    return found


def known_tokens_like(other: KnownTokens, rows: int | None) -> KnownTokens:
    """The tokens of another model, as far as there are rows for them."""
    least = other.rows if rows is None else rows
    ids = {token: number for token, number in other.ids.items() if number < least}
    return KnownTokens(other.folder, least, ids, {token: one for token, one in other.added.items() if token in ids})


def _as_they_are(known: Mapping[str, KnownTokens], opened: Opened) -> Vocabulary:
    """Tokens that nothing was said about: rows stay where they are, and the longer of unequal embeddings are cut."""
    counts = {label: rows for label, model in opened.items() if (rows := embedding_rows(model)) is not None}
    least = min(counts.values(), default=0)
    first = next(iter(opened))
    remarks = []
    for label, tokens in known.items():
        if first not in known or label == first:
            continue
        moved = _at_other_rows(known[first], tokens, least)
        if moved:
            remarks.append(
                f"{label} has {len(moved)} tokens at rows where {first} has others, {moved[0]!r} first: rows of "
                "different tokens are merged. `tokenizer: {source: union}` merges them by token."
            )
    if all(count == least for count in counts.values()):
        return Vocabulary(known, None, remarks=tuple(remarks))
    shown = ", ".join(f"{count} of {label}" for label, count in counts.items())
    if remarks:
        raise MergeError(f"embeddings have different numbers of rows ({shown}), and {remarks[0]}")
    lost = [token for token, row in known[first].ids.items() if row >= least] if first in known else []
    if lost:
        raise MergeError(
            f"embeddings have different numbers of rows ({shown}). Cut to {least}, {len(lost)} tokens of {first} would "
            f"have none, {lost[0]!r} first; say `tokenizer: {{source: union}}`, or have the smallest "
            "as `base_model`."
        )
    remarks.append(f"Embeddings have different numbers of rows ({shown}); the result has {least}.")
    return Vocabulary(known, None, least, remarks=tuple(remarks))


def _at_other_rows(first: KnownTokens, other: KnownTokens, least: int) -> list[str]:
    """Tokens below `least` that stand elsewhere in the first model, or where it has another; free rows are no harm."""
    at = {row: token for token, row in first.ids.items()}
    return [
        token
        for token, row in other.ids.items()
        if row < least and (at.get(row, token) != token or first.ids.get(token, row) != row)
    ]


def _usual(have: Sequence[Row], base: int | None) -> tuple[Row, ...]:
    """The base's row if it has one, else the mean of those that models have, zeros if none has."""
    return tuple(row for row in have if row[0] == base) or tuple(have)


def _cut(read: Read, rows: int) -> Tensor:
    return read()[:rows]
