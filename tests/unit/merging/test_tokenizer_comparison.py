"""Two tokenizers are compared by what they map to which id."""

import json
from pathlib import Path
from typing import Any

import pytest

from merging.errors import CheckpointError
from merging.tokens import tokenizer_difference


def folder(path: Path, vocab: Any, added: list[tuple[str, int]] | None = None) -> Path:
    path.mkdir()
    tokens = [{"id": number, "content": token} for token, number in added or []]
    content = {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": tokens}
    (path / "tokenizer.json").write_text(json.dumps(content))
    return path


def test_equal_vocabularies_are_equal_whatever_their_order(tmp_path: Path) -> None:
    ours = folder(tmp_path / "a", {"x": 0, "y": 1}, [("<eos>", 2)])
    theirs = folder(tmp_path / "b", {"y": 1, "x": 0, "<eos>": 2})
    assert tokenizer_difference(ours, theirs) is None


def test_swapped_and_added_tokens_are_named_with_both_ids(tmp_path: Path) -> None:
    ours = folder(tmp_path / "a", {"x": 0, "y": 1})
    theirs = folder(tmp_path / "b", {"x": 1, "y": 0}, [("<|im_start|>", 2)])
    assert tokenizer_difference(ours, theirs) == (
        "3 tokens differ: 'x' (0 and 1), 'y' (1 and 0), '<|im_start|>' (absent and 2)"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": 3}, "must be a tokenizer, with a `vocab` in its `model`"),
        ({"model": {"vocab": "x"}}, "must be a tokenizer, with a `vocab` in its `model`"),
        ({"model": {"vocab": [3]}}, "every entry of `vocab` must be a token and its score"),
        ({"model": {"vocab": {"a": "b"}}}, "the id of every token must be a whole number"),
        ({"model": {"vocab": {}}, "added_tokens": [3]}, "`added_tokens` must each have `content` and `id`"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: object, said: str) -> None:
    ours, theirs = folder(tmp_path / "a", {"x": 0}), folder(tmp_path / "b", {"x": 0})
    (theirs / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=said):
        tokenizer_difference(ours, theirs)


def test_unigram_vocabularies_are_lists(tmp_path: Path) -> None:
    ours = folder(tmp_path / "a", [["<unk>", 0.0], ["x", -1.5]])
    same = folder(tmp_path / "b", [["<unk>", 0.0], ["x", -9.0]])
    other = folder(tmp_path / "c", [["<unk>", 0.0], ["z", -1.5]])
    assert tokenizer_difference(ours, same) is None
    assert "'x' (1 and absent)" in str(tokenizer_difference(ours, other))


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.model"])
def test_without_tokenizer_json_the_vocabulary_files_are_compared(tmp_path: Path, name: str) -> None:
    for model, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / model).mkdir()
        (tmp_path / model / name).write_bytes(content)
    assert tokenizer_difference(tmp_path / "a", tmp_path / "b") is None
    assert tokenizer_difference(tmp_path / "a", tmp_path / "c") == f"the two `{name}` files differ"


def test_a_model_without_tokenizer_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    assert tokenizer_difference(folder(tmp_path / "a", {"x": 0}), tmp_path / "bare") is None


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    ours, theirs = folder(tmp_path / "a", {"x": 0}), folder(tmp_path / "b", {"x": 0})
    (theirs / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"b/tokenizer\.json: cannot be read as JSON"):
        tokenizer_difference(ours, theirs)
