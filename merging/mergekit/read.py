"""Read a file of mergekit merge configs: one, or several that refer to each other by name."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from merging.frozen import Frozen
from merging.mergekit.compile import refuse_unknown, unknown_parameters
from merging.mergekit.grammar import MergeConfig, Module
from merging.yaml_file import FileError, parse, read_documents


@dataclass(frozen=True)
class ConfigFile:
    """The configs of a file in the order they must be carried out; the last one is the result.

    `text` is the file as it stands. `remarks` say what has no effect, and what was left out where that is allowed.
    """

    path: Path
    text: str
    configs: tuple[MergeConfig, ...]
    remarks: tuple[str, ...]


def is_mergekit(path: Path) -> bool:
    """Whether a file's keys are those of merge configs of mergekit. Raises `FileError` where it cannot be read."""
    return path.suffix != ".json" and any("merge_method" in content for content in read_documents(path))


def read_configs(path: Path, lenient: bool = False) -> ConfigFile:
    """Unknown keys and parameters are left out if `lenient`. Raises `FileError` or `MergeError` where one is wrong."""
    contents = read_documents(path)
    remarks: list[str] = []
    configs = []
    for number, content in enumerate(contents, start=1):
        name = f"{path}" if len(contents) == 1 else f"{path}, document {number}"
        if lenient:
            content, ignored = without_unknown(content, MergeConfig)
            remarks += [f"{name}: left out the unknown key `{key}`." for key in ignored]
        config = parse(content, MergeConfig, name)
        if not lenient:
            refuse_unknown(config)
        configs.append(config)
        remarks += _remarks(config, name)
    return ConfigFile(path, path.read_text(encoding="utf-8"), tuple(_in_order(configs, path)), tuple(remarks))


def _remarks(config: MergeConfig, name: str) -> list[str]:
    strangers, idle = unknown_parameters(config)
    found = [f"{name}: left out the unknown parameter `{one}`." for one in strangers]
    found += [f"{name}: `{one}` has no effect on `{config.merge_method}`." for one in idle]
    parts: list[MergeConfig | Module] = [config, *(config.modules or {}).values()]
    slices = [piece for part in parts for piece in part.slices or ()]
    if any(piece.residual_weight is not None for piece in slices):
        found.append(f"{name}: `residual_weight` has no effect, as in mergekit.")
    if any(reference.override_architecture for reference in config.references()):
        found.append(f"{name}: `override_architecture` has no effect; layers are told from the names of weights.")
    return found


def without_unknown(content: dict[str, Any], grammar: type[Frozen]) -> tuple[dict[str, Any], list[str]]:
    """The content without keys that the grammar does not have, and those keys."""
    content = copy.deepcopy(content)
    ignored: list[str] = []
    while True:
        try:
            grammar.model_validate(content)
        except ValidationError as error:
            extra = [problem["loc"] for problem in error.errors() if problem["type"] == "extra_forbidden"]
            removed = [path for path in (_removed(content, place) for place in extra) if path is not None]
            if removed:
                ignored += removed
                continue
        return content, ignored


def _removed(content: Any, place: Sequence[int | str]) -> str | None:
    """Take a key out; its place in the file, None where it is gone already. Parts that pydantic added are skipped."""
    path: list[str] = []
    here: Any = content
    for part in place[:-1]:
        known: Any = here  # a list or a mapping, which the next line makes sure of
        if (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int)):
            here = known[part]
            path.append(str(part))
    if not isinstance(here, dict) or place[-1] not in here:
        return None
    del here[place[-1]]
    return ".".join([*path, str(place[-1])])


def _in_order(configs: Sequence[MergeConfig], path: Path) -> list[MergeConfig]:
    """What others are made from first, the result last. Raises `FileError` where they go in a circle."""
    named = {config.name: config for config in configs if config.name is not None}
    final = [config for config in configs if config.name is None]
    for name, config in named.items():
        if any(reference.model.path == name for reference in config.references()):
            raise FileError(
                f"{path}: `name` is what other documents call the result, so `{name}` cannot be made from a model "
                f"`{name}`; give it another name, or none if it is the only document."
            )
    if len(configs) == 1:
        return list(configs)
    if len(named) + len(final) < len(configs):
        raise FileError(f"{path}: every document must have a `name` of its own.")
    if len(final) > 1:
        raise FileError(f"{path}: only the result may have no `name`, but {len(final)} documents have none.")
    ordered: list[MergeConfig] = []

    def place(config: MergeConfig, above: tuple[str, ...]) -> None:
        if config.name in above:
            circle = " needs ".join([*above, str(config.name)])
            raise FileError(f"{path}: merges must not go in a circle, but {circle}.")
        if config in ordered:
            return
        for reference in config.references():
            if reference.model.path in named:
                place(named[reference.model.path], (*above, str(config.name)))
        ordered.append(config)

    for config in [*named.values(), *final]:
        place(config, ())
    if final:
        return ordered
    used = {reference.model.path for config in configs for reference in config.references()}
    last = [config for config in ordered if config.name not in used]
    if len(last) != 1:
        raise FileError(
            f"{path}: one document must be the result (without `name`, or not used by another), but {len(last)} are."
        )
    return [*(config for config in ordered if config is not last[0]), last[0]]
