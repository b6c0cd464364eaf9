"""Read a YAML file into a frozen type, refusing what it does not know with a suggestion."""

import difflib
from collections.abc import Hashable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

Spec = TypeVar("Spec", bound=BaseModel)


class FileError(ValueError):
    """A file does not say what its type asks for; the message names the file, the key and what there is."""


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key written twice: plain YAML would keep the second one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise FileError(f"line {line}: the key `{key}` is written twice; keep one of them.")
            seen.append(key)
        return super().construct_mapping(node, deep=deep)


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's top-level mapping. Raises `FileError` where there is no such file or it is not a mapping."""
    documents = read_documents(path)
    if len(documents) != 1:
        raise FileError(f"{path}: must hold one YAML document, but holds {len(documents)}.")
    return documents[0]


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The top-level mappings of the documents in a file, empty ones left out. Raises `FileError` as `read_mapping`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read ({error}).") from error
    try:
        documents = list(yaml.load_all(text, Loader=_UniqueKeys))
    except yaml.YAMLError as error:
        raise FileError(f"{path}: is not valid YAML: {error}") from error
    except RecursionError:
        raise FileError(f"{path}: lists and mappings stand in each other too many times to be read.") from None
    except FileError as error:
        raise FileError(f"{path}, {error}") from None
    found = [content for content in documents if content is not None] or [None]
    for content in found:
        if not isinstance(content, dict):
            raise FileError(f"{path}: must hold a mapping of keys to values, but holds {type(content).__name__}.")
    return found


def parse(content: dict[str, Any], spec: type[Spec], name: str) -> Spec:
    """Validate `content` as `spec`. Raises `FileError` with one line for each thing that is wrong."""
    try:
        return spec.model_validate(content)
    except ValidationError as error:
        lines = [_explain(problem, spec, content) for problem in error.errors() if not _follows(problem)]
        raise FileError("\n".join(f"{name}: {line}" for line in dict.fromkeys(lines))) from None


def suggest(word: str, known: list[str]) -> str:
    """`; did you mean `density`?`, or the whole list where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`? (there is: {', '.join(known)})"
    return f"there is: {', '.join(known)}"


_KINDS = {
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping of keys to values"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
}


def _follows(problem: Any) -> bool:
    """Whether a list is only too short because entries of it are wrong, which pydantic leaves out as it counts."""
    return bool(problem["type"] == "too_short" and len(problem["input"]) >= problem["ctx"]["min_length"])


def _in_words(problem: Any) -> str:
    """What is wrong, where pydantic's own words are about its types."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _KINDS:
        return f"must be {_KINDS[kind]}"
    if kind in ("too_short", "too_long") and isinstance(problem["input"], dict | list | tuple):
        count = context["min_length"] if kind == "too_short" else context["max_length"]
        entries = f"{count} {'entry' if count == 1 else 'entries'}"
        return f"must have at {'least' if kind == 'too_short' else 'most'} {entries}, but has {len(problem['input'])}"
    return str(problem["msg"]).removeprefix("Value error, ")


def _explain(problem: Any, spec: type[BaseModel], content: Any) -> str:
    where = ".".join(_written(problem["loc"], content))
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        return f"unknown key `{where}`; {suggest(key, _keys_at(spec, problem['loc'][:-1]))}."
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        key, kinds = problem["ctx"]["discriminator"].strip("'"), problem["ctx"].get("expected_tags", "")
        said = f"is {problem['ctx']['tag']!r}" if "tag" in problem["ctx"] else "is missing"
        return f"`{where}.{key}` must say which kind it is{f', one of {kinds}' if kinds else ''}, but {said}."
    if problem["type"] == "missing":
        return f"the {'entry' if isinstance(problem['loc'][-1], int) else 'key'} `{where}` is missing."
    message = _in_words(problem)
    value = problem.get("input")
    shown = "" if isinstance(value, dict | list) or not where else f" (got {value!r})"
    return f"`{where}`: {message}{shown}" if where else message


def _written(path: tuple[int | str, ...], content: Any) -> Iterator[str]:
    """The parts of a path that stand in the file; pydantic adds the names of the union members it tried."""
    for number, part in enumerate(path, start=1):
        here: Any = content
        if isinstance(content, list):
            there = isinstance(part, int) and part < len(content)  # a pair may lack its second
        else:
            there = isinstance(content, dict) and part in content
        if there:
            content = here[part]
        elif number < len(path):
            continue
        yield str(part)


def _keys_at(spec: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The field names of the model that stands at `path` inside `spec`, through mappings, lists and unions."""
    here: list[Any] = [spec]
    for part in path:
        here = [inner for outer in here for inner in _step(outer, part)]
    models = [model for outer in here for model in _models_in(outer)]
    fields = [field for model in models for field in model.model_fields]
    return list(dict.fromkeys(fields))


def _step(outer: Any, part: int | str) -> list[Any]:
    steps: list[Any] = []
    for model in _models_in(outer):
        if isinstance(part, str) and part in model.model_fields:
            steps.append(model.model_fields[part].annotation)
        elif part == model.__name__ or part in _tags(model):
            steps.append(model)  # pydantic names the member of a union it tried
    if not steps and not _is_model(outer):
        steps.extend(argument for argument in get_args(outer) if argument is not type(None))
    return steps


def _tags(model: type[BaseModel]) -> list[Any]:
    """The literal values by which a member of a discriminated union is told from the others."""
    return [value for field in model.model_fields.values() for value in get_args(field.annotation)]


def _models_in(outer: Any) -> list[type[BaseModel]]:
    if _is_model(outer):
        return [outer]
    if get_origin(outer) in (Union, UnionType):
        return [model for argument in get_args(outer) for model in _models_in(argument)]
    if get_origin(outer) is not None:
        return [model for argument in get_args(outer) for model in _models_in(argument)]
    return []


def _is_model(outer: Any) -> bool:
    return isinstance(outer, type) and issubclass(outer, BaseModel)
