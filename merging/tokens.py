"""Compare two tokenizers by what they map to which id, from their files alone."""

from pathlib import Path
from typing import Any

from merging.weight_files import read_json

_FEW = 3
_PLAIN_FILES = ("vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")


def tokenizer_difference(base: Path, expert: Path) -> str | None:
    """How the expert's tokenizer differs, as the end of a sentence; None where it does not or cannot be told.

    `tokenizer.json` is compared token by token where both folders have one. Without it the vocabulary files
    are compared byte by byte. Raises `CheckpointError` where a JSON file is damaged.
    """
    if (base / "tokenizer.json").is_file() and (expert / "tokenizer.json").is_file():
        ours, theirs = token_ids(base / "tokenizer.json"), token_ids(expert / "tokenizer.json")
        return _difference(ours, theirs)
    for name in _PLAIN_FILES:
        if (base / name).is_file() and (expert / name).is_file():
            same = (base / name).read_bytes() == (expert / name).read_bytes()
            return None if same else f"the two `{name}` files differ"
    return None


def token_ids(path: Path) -> dict[str, int]:
    """Every token with its id: the model's vocabulary, then the added tokens, which win."""
    content = read_json(path)
    model = content.get("model")
    vocabulary: Any = model.get("vocab", {}) if isinstance(model, dict) else {}
    if isinstance(vocabulary, list):  # Unigram: [token, log probability], the id is the position
        ids = {str(entry[0]): position for position, entry in enumerate(vocabulary)}
    else:
        ids = dict(vocabulary)
    for token in content.get("added_tokens") or []:
        ids[token["content"]] = token["id"]
    return ids


def _difference(ours: dict[str, int], theirs: dict[str, int]) -> str | None:
    different = [token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)]
    if not different:
        return None
    shown = ", ".join(f"{token!r} ({_id(ours, token)} and {_id(theirs, token)})" for token in different[:_FEW])
    return f"{len(different)} tokens differ: {shown}"


def _id(ids: dict[str, int], token: str) -> str:
    return str(ids[token]) if token in ids else "absent"
