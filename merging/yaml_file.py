"""Read a YAML file into a frozen type, refusing what it does not know with a suggestion."""

import difflib
import json
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
        raise FileError(
            f"{path}: must hold one YAML document, but holds {len(documents)}; only a merge config of mergekit, for "
            "`mergeopt merge`, may have several."
        )
    return documents[0]


def read_documents(path: Path) -> list[dict[str, Any]]:
    """The top-level mappings of the documents in a file, empty ones left out. Raises `FileError` as `read_mapping`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read ({error}).") from error
    try:
        documents = list(yaml.load_all(text, Loader=_UniqueKeys))
    except FileError as error:
        raise FileError(f"{path}, {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise FileError(f"{path}: is not valid YAML{where}: {error.problem or error.context}.") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for a date or a number that there cannot be
        raise FileError(f"{path}: is not valid YAML: {error}") from error
    except RecursionError:
        raise FileError(f"{path}: lists and mappings stand in each other too many times to be read.") from None
    found = [content for content in documents if content is not None] or [None]
    for content in found:
        if not isinstance(content, dict):
            raise FileError(f"{path}: must hold a mapping of keys to values, but {_holds(content)}.")
    return found


def _holds(content: Any) -> str:
    return "is empty" if content is None else f"holds {'a list' if isinstance(content, list) else shown(content)}"


def parse(content: dict[str, Any], spec: type[Spec], name: str) -> Spec:
    """Validate `content` as `spec`. Raises `FileError` with one line for each thing that is wrong."""
    try:
        return spec.model_validate(content)
    except ValidationError as error:
        lines = [_explain(problem, spec, content) for problem in _told(error, content)]
        raise FileError("\n".join(f"{name}: {line}" for line in dict.fromkeys(lines))) from None


def suggest(word: str, known: list[str]) -> str:
    """`; did you mean `density`?`, or the whole list where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`? (there is: {', '.join(known)})"
    return f"there is: {', '.join(known)}"


def shown(value: Any) -> str:
    """A value as it stands in a file, cut where it is long."""
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 80
_SAID = "Value error, "
_KINDS = {
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping of keys to values"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    "string_type": "text",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text that matches {pattern}",
}
"""What a value must be, by pydantic's name for what is wrong with it."""
_COUNTED = {
    "too_short": ("least", "min_length", "entry", "entries"),
    "too_long": ("most", "max_length", "entry", "entries"),
    "string_too_short": ("least", "min_length", "character", "characters"),
    "string_too_long": ("most", "max_length", "character", "characters"),
}


def in_words(problem: Any) -> str:
    """What is wrong, where pydantic's own words are about its types; without the value that was met."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _KINDS:
        plain = {key: int(one) if isinstance(one, float) and one.is_integer() else one for key, one in context.items()}
        return f"must be {_KINDS[kind].format(**plain)}"
    if kind in _COUNTED and isinstance(problem["input"], dict | list | tuple | str):
        bound, key, one, several = _COUNTED[kind]
        count = context[key]
        return f"must have at {bound} {count} {one if count == 1 else several}, but has {len(problem['input'])}"
    return str(problem["msg"]).removeprefix(_SAID)


def _told(error: ValidationError, content: Any) -> list[Any]:
    """The problems worth telling: of a value that may be of several kinds, that of the kind it comes nearest to."""
    problems = [problem for problem in error.errors() if not _follows(problem)]
    places: dict[tuple[str, ...], list[Any]] = {}
    for problem in problems:
        places.setdefault(tuple(_written(problem, content)), []).append(problem)
    found = []
    for place, some in places.items():
        deeper = any(other[: len(place)] == place and len(other) > len(place) for other in places)
        values = [one for one in some if not _is_of_kind(one)]
        if len(some) == 1 or values:
            found += some if len(some) == 1 else values
        elif not deeper:
            kinds = list(dict.fromkeys(_KINDS[one["type"]] for one in some))
            rule = f"must be {', '.join(kinds[:-1])} or {kinds[-1]}" if len(kinds) > 1 else f"must be {kinds[0]}"
            found.append({**some[0], "type": "one_of_several", "msg": rule})
    return found


def _is_of_kind(problem: Any) -> bool:
    """Whether a value is of another kind than it must be, rather than a wrong value of that kind."""
    return problem["type"] in _KINDS and str(problem["type"]).endswith(("_type", "_parsing", "_from_float"))


def _follows(problem: Any) -> bool:
    """Whether a list is only too short because entries of it are wrong, which pydantic leaves out as it counts."""
    return bool(problem["type"] == "too_short" and len(problem["input"]) >= problem["ctx"]["min_length"])


def _explain(problem: Any, spec: type[BaseModel], content: Any) -> str:
    where = ".".join(_written(problem, content))
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        return f"unknown key `{where}`; {suggest(key, _keys_at(spec, problem['loc'][:-1]))}."
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        key, kinds = problem["ctx"]["discriminator"].strip("'"), problem["ctx"].get("expected_tags", "")
        said = f"is {problem['ctx']['tag']!r}" if "tag" in problem["ctx"] else "is missing"
        return f"`{where}.{key}` must say which kind it is{f', one of {kinds}' if kinds else ''}, but {said}."
    if problem["type"] == "missing":
        return f"the {'entry' if isinstance(problem['loc'][-1], int) else 'key'} `{where}` is missing."
    if problem["loc"] and (problem["loc"][-1] == _KEY or problem["type"] == "invalid_key"):
        return f"the key `{where}` must be text; write it in quotes."
    value = problem.get("input")
    met = "" if isinstance(value, dict | list) or not where else f" (got {shown(value)})"
    return f"`{where}`: {in_words(problem)}{met}" if where else in_words(problem)


_KEY = "[key]"
"""How pydantic says that what is wrong is a mapping's key."""


def _written(problem: Any, content: Any) -> Iterator[str]:
    """The parts of a problem's path that stand in the file; pydantic adds the names of the union members it tried."""
    path = problem["loc"]
    for number, part in enumerate(path, start=1):
        here: Any = content
        if isinstance(content, list):
            there = isinstance(part, int) and part < len(content)  # a pair may lack its second
        else:
            there = isinstance(content, dict) and part in content
        if there:
            content = here[part]
        elif number < len(path) or problem["type"] not in ("missing", "extra_forbidden"):
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
