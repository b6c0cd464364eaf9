"""The documents of an evaluator: from a file of the user's, or from a data set."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from evaluators.frozen import Frozen
from evaluators.protocol import EvaluatorError
from evaluators.splits import Document

_UTF8 = "utf-8-sig"  # a byte order mark, as some editors write it, is no part of the text

Unit = Literal["line", "paragraph", "file"]


class Data(Frozen):
    """Where documents come from: `file`, or `dataset` with its `config` and `split`.

    A file is read by its ending: `.jsonl` and `.json` (a list of objects), `.csv` and `.tsv` (with a header),
    `.parquet`; anything else is text, whose documents (`{text: ...}`) are its lines, its paragraphs or the whole file,
    as `unit` says. `dataset` is a Hub id or a folder, read by the `datasets` library, from its cache where there is no
    network.
    """

    file: str | None = None
    unit: Unit = "line"
    dataset: str | None = None
    config: str | None = None
    revision: str | None = None
    split: str = "test"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.dataset is None):
            raise ValueError("must name a `file` or a `dataset`, one of them")
        others = {"config", "revision", "split"} if self.file is not None else {"unit"}
        idle = [name for name in sorted(others) if getattr(self, name) != type(self).model_fields[name].default]
        if idle:
            kind = "file" if self.file is not None else "data set"
            raise ValueError(f"`{idle[0]}` means nothing for a {kind}; take it out")
        return self

    def located(self, place: Callable[[str], str]) -> Self:
        """The same with an absolute path; a data set that is no folder here is a Hub id and stays."""
        if self.file is not None:
            return self.model_copy(update={"file": place(self.file)})
        assert self.dataset is not None
        here = place(self.dataset)
        return self.model_copy(update={"dataset": here}) if Path(here).is_dir() else self

    def documents(self) -> list[Document]:
        """Every document in the order of the file. Raises `EvaluatorError` where they cannot be read."""
        if self.dataset is not None:
            return _from_dataset(self.dataset, self.config, self.split, self.revision)
        file = Path(str(self.file))
        if not file.is_file():
            raise EvaluatorError(
                f"{file}: `data` must be a file, but there is none; paths are relative to the job file."
            )
        try:
            found = _read(file, self.unit)
        except (OSError, ValueError, RecursionError, csv.Error) as error:  # not JSON or not UTF-8 is a ValueError
            raise EvaluatorError(f"{file}: cannot be read as {file.suffix or 'text'}: {error}.") from error
        if not found:
            raise EvaluatorError(f"{file}: must hold documents, but holds none.")
        wrong = next((number for number, one in enumerate(found, start=1) if not isinstance(one, dict)), None)
        if wrong is not None:
            raise EvaluatorError(
                f"{file}: every document must be an object with named fields, but number {wrong} is not."
            )
        return found


def _data(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


DataField = Annotated[Data, BeforeValidator(_data)]
"""`Data` that may be written as the path of its file alone."""

FieldName = Annotated[str, Field(min_length=1)]


def text_of(document: Document, field: str, name: str) -> str:
    """The string in a document's field. Raises `EvaluatorError` naming evaluator and fields where there is none."""
    value = document.get(field)
    if not isinstance(value, str) or not value:
        raise EvaluatorError(
            f"`{name}`: every document must have text in its field `{field}`, but one has {value!r}; its fields are "
            f"{', '.join(map(str, document))}. Name the field in the job file, or mend the data."
        )
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise EvaluatorError(f"`{name}`: field `{field}` holds half a character (a lone surrogate): {value!r}.")
    return value


def _read(file: Path, unit: Unit) -> list[Any]:
    reader = _READERS.get(file.suffix.lower())
    return reader(file) if reader is not None else _texts(file, unit)


def _jsonl(file: Path) -> list[Any]:
    with file.open(encoding=_UTF8) as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _json(file: Path) -> list[Any]:
    content = json.loads(file.read_text(encoding=_UTF8))
    if not isinstance(content, list):
        raise ValueError(f"must be a list of objects, but is {type(content).__name__}")
    return content


def _table(file: Path, delimiter: str) -> list[Any]:
    with file.open(encoding=_UTF8, newline="") as rows:
        reader = csv.DictReader(rows, delimiter=delimiter, strict=True)
        found = []
        for row in reader:
            if None in row or None in row.values():  # cells beyond the header, or too few
                raise ValueError(f"line {reader.line_num} has not as many cells as the header")
            found.append(row)
        return found


def _parquet(file: Path) -> list[Any]:
    import pyarrow.parquet  # comes with `datasets`

    rows: list[Any] = pyarrow.parquet.read_table(file).to_pylist()
    return rows


def _texts(file: Path, unit: Unit) -> list[Any]:
    text = file.read_text(encoding=_UTF8)
    parts = {"line": text.split("\n"), "paragraph": re.split(r"\n[ \t]*\n", text), "file": [text]}[unit]
    return [{"text": part} for part in parts if part.strip()]


_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": lambda file: _table(file, ","),
    ".tsv": lambda file: _table(file, "\t"),
    ".parquet": _parquet,
}


def _from_dataset(name: str, config: str | None, split: str, revision: str | None) -> list[Document]:
    import datasets

    try:
        found = datasets.load_dataset(name, config, split=split, revision=revision)
        return [dict(row) for row in found]
    except Exception as error:  # datasets and the Hub's client each raise their own
        raise EvaluatorError(
            f"data set `{name}` ({config or 'no config'}, split `{split}`) cannot be loaded: "
            f"{type(error).__name__}: {error}. Check the names, or download it while online."
        ) from error
