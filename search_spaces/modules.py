"""Which module set a group of tensors follows, inside the layers and outside them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from merging.groups import MODULES, Group

ALL = "all"
# What a layered space uses where the job names no sets: everything inside a layer, and two sets outside.
_OUTSIDE_INPUT, _OUTSIDE_OUTPUT = "embeddings", "head+norms"


@dataclass(frozen=True)
class ModuleSet:
    """Modules that share a coefficient, under the name they were written with (`attention+norms`)."""

    name: str
    modules: tuple[str, ...]


def parse_sets(texts: Iterable[str]) -> tuple[ModuleSet, ...]:
    """The sets a job names, in its order. Raises ValueError for an unknown module and for one named twice."""
    sets = tuple(_parse(text) for text in texts)
    if not sets:
        raise ValueError("must name at least one module set, but names none; write `all` for one coefficient")
    named: dict[str, str] = {}
    for module_set in sets:
        for module in module_set.modules:
            if module in named:
                raise ValueError(
                    f"a module may be named once, but {module!r} is in {named[module]!r} and in {module_set.name!r}"
                )
            named[module] = module_set.name
    return sets


def _parse(text: str) -> ModuleSet:
    if text == ALL:
        return ModuleSet(ALL, MODULES)
    modules = tuple(text.split("+"))
    for module in modules:
        if module not in MODULES:
            near = get_close_matches(module, [*MODULES, ALL], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"a module set joins names from {', '.join(MODULES)} with `+`, or is `all`, "
                f"but {text!r} has {module!r}{hint}"
            )
    return ModuleSet(text, modules)


def followed_module(group: Group) -> str:
    """The module whose set a group follows.

    It is the group's own module, except that norms and other tensors outside the layers (a final norm) follow
    `head`: they shape what the head reads, and no layer owns them.
    """
    if group.layer is None and group.module in ("norms", "other"):
        return "head"
    return group.module


def set_name(sets: Sequence[ModuleSet] | None, group: Group) -> str | None:
    """The name of the set that a group follows, or None where no set names its module.

    `sets` is None for the default of layered spaces: `all` inside a layer; outside, `embeddings` and
    `head+norms`, where the second takes whatever is not an embedding.
    """
    if sets is None:
        if group.layer is not None:
            return ALL
        return _OUTSIDE_INPUT if group.module == "embeddings" else _OUTSIDE_OUTPUT
    module = followed_module(group)
    return next((module_set.name for module_set in sets if module in module_set.modules), None)
