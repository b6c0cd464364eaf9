"""Compare two tokenizers by what they map to which id, from their files alone."""

from pathlib import Path
from typing import Any

from merging.errors import CheckpointError
from merging.weight_files import has_file, read_json

_FEW = 3
_NEEDED = {"content", "id"}
_AGAIN = " Make it again: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`."
_PLAIN_FILES = ("vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")


def tokenizer_difference(base: Path, expert: Path) -> str | None:
    """How the expert's tokenizer differs, as the end of a sentence; None where it does not or cannot be told.

    `tokenizer.json` is compared token by token where both folders have one. Without it the vocabulary files
    are compared byte by byte. Raises `CheckpointError` where a JSON file is damaged.
    """
    if has_file(base / "tokenizer.json") and has_file(expert / "tokenizer.json"):
        ours, theirs = token_ids(base / "tokenizer.json"), token_ids(expert / "tokenizer.json")
        return _difference(ours, theirs)
    for name in _PLAIN_FILES:
        if has_file(base / name) and has_file(expert / name):
            same = (base / name).read_bytes() == (expert / name).read_bytes()
            return None if same else f"the two `{name}` files differ"
    return None


def token_ids(path: Path) -> dict[str, int]:
    """Every token with its id: the model's vocabulary, then the added tokens, which win.

    Raises `CheckpointError` where the file is damaged, or no tokenizer.
    """
    content = read_json(path)
    model, added = content.get("model"), content.get("added_tokens") or []
    vocabulary: Any = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: [token, log probability], the id is the position
        if any(not isinstance(entry, list) or not entry for entry in vocabulary):
            raise CheckpointError(
                f"{path}: every entry of `vocab` must be a token and its score, but one is not.{_AGAIN}"
            )
        ids = {str(entry[0]): position for position, entry in enumerate(vocabulary)}
    elif isinstance(vocabulary, dict):
        ids = dict(vocabulary)
    else:
        raise CheckpointError(f"{path}: must be a tokenizer, with a `vocab` in its `model`, but has none.{_AGAIN}")
    if not isinstance(added, list) or any(not isinstance(one, dict) or not one.keys() >= _NEEDED for one in added):
        raise CheckpointError(f"{path}: `added_tokens` must each have `content` and `id`, but one lacks them.{_AGAIN}")
    ids |= {token["content"]: token["id"] for token in added}
    if any(not isinstance(number, int) or isinstance(number, bool) or number < 0 for number in ids.values()):
        raise CheckpointError(f"{path}: the id of every token must be a whole number, but one is not.{_AGAIN}")
    return ids


def _difference(ours: dict[str, int], theirs: dict[str, int]) -> str | None:
    different = [token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)]
    if not different:
        return None
    shown = ", ".join(f"{token!r} ({_id(ours, token)} and {_id(theirs, token)})" for token in different[:_FEW])
    return f"{len(different)} tokens differ: {shown}"


def _id(ids: dict[str, int], token: str) -> str:
    return str(ids[token]) if token in ids else "absent"
