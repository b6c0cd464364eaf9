"""Data files are read whole and as they are meant, or refused with the line that is wrong."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evaluators.data import Data, text_of
from evaluators.protocol import EvaluatorError


def _read(folder: Path, name: str, content: bytes, **how: Any) -> list[Any]:
    (folder / name).write_bytes(content)
    return Data(file=str(folder / name), **how).documents()


def test_every_format_gives_documents_with_their_fields(tmp_path: Path) -> None:
    wanted = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    assert _read(tmp_path, "a.csv", b"text,label\none,a\ntwo,b\n") == wanted
    assert _read(tmp_path, "a.tsv", b"text\tlabel\none\ta\ntwo\tb\n") == wanted
    lines = b'{"text": "one", "label": "a"}\n\n{"text": "two", "label": "b"}\n'
    assert _read(tmp_path, "a.jsonl", lines) == wanted
    assert _read(tmp_path, "a.json", b"[" + lines.strip().replace(b"\n\n", b",") + b"]") == wanted


@pytest.mark.parametrize(
    ("unit", "texts"), [("line", ["a\u2028b", "c", "d"]), ("paragraph", ["a\u2028b", "c\nd"]), ("file", None)]
)
def test_text_is_cut_where_it_says(tmp_path: Path, unit: str, texts: list[str] | None) -> None:
    whole = "a\u2028b\n \nc\nd"
    found = _read(tmp_path, "a.txt", whole.encode(), unit=unit)
    assert [one["text"] for one in found] == (texts or [whole])


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str) -> None:
    content = {"a.csv": "text\nhello\n", "a.txt": "hello\n", "a.jsonl": '{"text": "hello"}\n'}[name]
    assert _read(tmp_path, name, b"\xef\xbb\xbf" + content.encode()) == [{"text": "hello"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"text,label\none,a,extra\n", "line 2 has not as many cells as the header"),
        ("a.csv", b"text,label\none\n", "line 2 has not as many cells as the header"),
        ("a.csv", b'text\n"one" two\n', "cannot be read as .csv"),
        ("a.csv", b"text\n" + b"x" * 200_000 + b"\n", "cannot be read as .csv"),
        ("a.json", b"[" * 100_000, "cannot be read as .json"),
        ("a.jsonl", b"[1]\n", "number 1 is not"),
        ("a.txt", b"\xff\xfe", "cannot be read as .txt"),
        ("a.txt", b"\n \n", "holds none"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(EvaluatorError, match=said):
        _read(tmp_path, name, content)


def test_half_a_character_is_refused_by_field() -> None:
    with pytest.raises(EvaluatorError, match="field `text` holds half a character"):
        text_of({"text": "a\ud800"}, "text", "chat")


@pytest.mark.parametrize("idle", [{"file": "a.txt", "revision": "v1"}, {"dataset": "org/set", "unit": "file"}])
def test_a_key_that_means_nothing_here_is_refused(idle: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="means nothing for a"):
        Data.model_validate(idle)
