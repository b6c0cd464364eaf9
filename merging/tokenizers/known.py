"""The tokens of one model that have a row in its embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint
from merging.tied import is_by_token
from merging.tokens import token_ids
from merging.weight_files import has_file, read_json

FILE = "tokenizer.json"


@dataclass(frozen=True)
class KnownTokens:
    """A model's tokens by id, lowest first. `rows` is how many rows its embeddings have, `ids` has only those below it.

    `added` has the settings (tokenizer.json's own) of tokens that were added to the vocabulary; `unused` the tokens of
    the file that no row belongs to.
    """

    folder: Path
    rows: int
    ids: dict[str, int]
    added: dict[str, dict[str, Any]] = field(repr=False)
    unused: tuple[str, ...] = ()

    @property
    def padding(self) -> int:
        """Rows that no token belongs to."""
        return self.rows - len(dict.fromkeys(self.ids.values()))


def known_tokens(model: Checkpoint) -> KnownTokens | None:
    """None where the folder has no tokenizer.json. Raises `CheckpointError` where that is damaged or no tokenizer."""
    return tokens_in(model.model_folder, embedding_rows(model))


def tokens_in(folder: Path, rows: int | None = None) -> KnownTokens | None:
    """As `known_tokens`, of a folder that may hold no model: every token counts where `rows` is None."""
    if not has_file(folder / FILE):
        return None
    ids = dict(sorted(token_ids(folder / FILE).items(), key=lambda entry: entry[1]))
    rows = rows if rows is not None else max(ids.values(), default=-1) + 1
    added = {token["content"]: token for token in read_json(folder / FILE).get("added_tokens") or []}
    return KnownTokens(
        folder=folder,
        rows=rows,
        ids={token: number for token, number in ids.items() if number < rows},
        added={token: settings for token, settings in added.items() if settings["id"] < rows},
        unused=tuple(token for token, number in ids.items() if number >= rows),
    )


def embedding_rows(model: Checkpoint) -> int | None:
    """How many rows the token embeddings have; None where the model has none."""
    names = [name for name in model.names if is_by_token(name)]
    first = _first([name for name in names if not name.endswith("bias")])
    return model.shapes[first][0] if first is not None else None


def _first(names: Sequence[str]) -> str | None:
    return names[0] if names else None
