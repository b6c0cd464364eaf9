"""One tokenizer for several models: a model's own, or the union of all, with tokens added to it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from merging.errors import MergeError
from merging.tokenizers.known import FILE, KnownTokens

_SETTINGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class OneTokenizer:
    """A tokenizer.json with every token that the result has.

    `ids` are its tokens with their ids, lowest first. Tokens of `start` keep their ids; others come after them, those
    of the first model first, by id.
    """

    def __init__(self, start: KnownTokens, others: Sequence[KnownTokens] = (), more: Sequence[str] = ()) -> None:
        """`others`: models whose tokens are added. `more`: tokens that are added if no model has them.

        Raises `MergeError` where `start` has tokens without a row that cannot be left out, or is no tokenizer.
        """
        self.start = start
        content = json.dumps(_without_unused(start))
        try:
            self._tokenizer = Tokenizer.from_str(content)
        except Exception as error:  # the library raises nothing narrower
            raise MergeError(f"{start.folder / FILE}: cannot be read as a tokenizer ({error}).") from error
        models = [start, *others]
        added = {token: settings for model in reversed(models) for token, settings in reversed(model.added.items())}
        for model in others:
            self._tokenizer.add_tokens([token for token in model.ids if token not in added and token not in start.ids])
        for settings in reversed(added.values()):
            self._add(settings)
        self._tokenizer.add_tokens([token for token in more if self._tokenizer.token_to_id(token) is None])
        found = self._tokenizer.get_vocab(with_added_tokens=True)
        self.ids = dict(sorted(found.items(), key=lambda entry: entry[1]))

    @property
    def rows(self) -> int:
        """One more than the last id."""
        return max(self.ids.values(), default=-1) + 1

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and the start's other tokenizer files as far as they agree with it."""
        self._tokenizer.save(str(folder / FILE))
        settings = self.start.folder / "tokenizer_config.json"
        if settings.is_file():
            content = json.loads(settings.read_text(encoding="utf-8"))
            if "added_tokens_decoder" in content:
                written = json.loads(self._tokenizer.to_str())["added_tokens"]
                content["added_tokens_decoder"] = {
                    str(one["id"]): {"content": one["content"], **{name: one[name] for name in _SETTINGS}}
                    for one in written
                }
            (folder / settings.name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _add(self, settings: dict[str, Any]) -> None:
        token = AddedToken(settings["content"], **{name: bool(settings.get(name, False)) for name in _SETTINGS})
        if settings.get("special"):
            self._tokenizer.add_special_tokens([token])
        else:
            self._tokenizer.add_tokens([token])


def _without_unused(start: KnownTokens) -> dict[str, Any]:
    """tokenizer.json without tokens that have no row. Merges that make or need one go with it."""
    content: dict[str, Any] = json.loads((start.folder / FILE).read_text(encoding="utf-8"))
    if not start.unused:
        return content
    gone = dict.fromkeys(start.unused)
    content["added_tokens"] = [one for one in content.get("added_tokens") or [] if one["content"] not in gone]
    model = content["model"]
    vocabulary = model.get("vocab")
    inner = [token for token in (vocabulary if isinstance(vocabulary, dict) else ()) if token in gone]
    if isinstance(vocabulary, list) and len(vocabulary) > start.rows:
        raise MergeError(
            f"{start.folder}: its tokenizer has {len(vocabulary)} tokens, but its embeddings have {start.rows} rows; "
            "only BPE vocabularies can be cut."
        )
    for token in inner:
        del vocabulary[token]
    if inner and "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _needs(merge, gone)]
    return content


def _needs(merge: Any, gone: dict[str, None]) -> bool:
    parts = merge.split(" ") if isinstance(merge, str) else list(merge)
    return any(part in gone for part in parts) or "".join(parts) in gone
