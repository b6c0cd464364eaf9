"""The `space` of a job file: one entry per kind of search space."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from merging.groups import MODULES, Group
from merging.recipe import Recipe, Source
from search_spaces.bound import LONGEST_NAME, BoundSpace
from search_spaces.errors import SpaceError
from search_spaces.grown import GrownSpace
from search_spaces.layerwise import LayerwiseSpace
from search_spaces.methods import SearchedMethods
from search_spaces.modules import followed_module
from search_spaces.path import bound_path
from search_spaces.smooth import SmoothSpace
from search_spaces.stencil import Stencil
from search_spaces.whole import GlobalSpace

SpaceSpec = Annotated[
    GlobalSpace | LayerwiseSpace | SmoothSpace | GrownSpace,
    Field(discriminator="granularity"),
]


def bind(
    spec: SpaceSpec,
    template: Recipe,
    groups: Sequence[Group],
    coefficients: Sequence[str],
    virtual: Mapping[str, Source | None] | None = None,
    methods: SearchedMethods | None = None,
) -> BoundSpace:
    """The space over one model's groups.

    `template` is the recipe of every trial, its coefficients still empty. `coefficients` names the numbers in
    a row: the experts for most methods, `t` alone for slerp; the last of them are those of `virtual` experts, as
    `BoundSpace` says. `methods` has trials differ in method or settings. Raises `SpaceError` where the spec does not
    fit the model: a module set that owns no tensors, or tensors that no set names while `rest` is not given.
    """
    if template.coefficients:
        raise SpaceError(
            f"the template must have no coefficients yet, but has {len(template.coefficients)} rows; "
            "pass it with `coefficients={}`"
        )
    names = _checked_once("coefficient", coefficients)
    _checked_once("group", [group.name for group in groups])
    _refuse_empty_sets(spec, groups)
    stencils = spec.stencils(groups)
    used = [name for stencil in stencils.values() if stencil is not None for name in stencil.used()]
    space = BoundSpace(
        template=template,
        rows=_rows(spec, stencils),
        coordinates=tuple(dict.fromkeys(used)),
        coefficients=names,
        bounds=spec.bounds,
        virtual=dict(virtual or {}),
        methods=methods,
        path=bound_path(spec.path, _layers(groups), _models(template)),
    )
    for name in _checked_once("parameter", space.names()):
        if len(name) > LONGEST_NAME:
            raise SpaceError(
                f"a parameter's name may have {LONGEST_NAME} characters, but {name!r} has {len(name)}; "
                "give the experts shorter names"
            )
    return space


def _layers(groups: Sequence[Group]) -> list[int]:
    return sorted(dict.fromkeys(group.layer for group in groups if group.layer is not None))


def _models(template: Recipe) -> list[str]:
    return [*(["base"] if template.base is not None else []), *template.experts]


def _checked_once(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise SpaceError(f"a space needs at least one {what}, but there is none")
    seen: dict[str, None] = {}
    for name in names:
        if not name or name in seen:
            raise SpaceError(f"every {what} needs a name of its own, but {name!r} is empty or comes twice")
        seen[name] = None
    return tuple(names)


def _refuse_empty_sets(spec: SpaceSpec, groups: Sequence[Group]) -> None:
    followed = dict.fromkeys(followed_module(group) for group in groups)
    for module_set in spec.sets() or ():
        if not any(module in followed for module in module_set.modules):
            raise SpaceError(
                f"every set in `modules` must own tensors, but the model has none for {module_set.name!r}; "
                f"it has {', '.join(module for module in MODULES if module in followed)}"
            )


def _rows(spec: SpaceSpec, stencils: Mapping[Group, Stencil | None]) -> tuple[tuple[str, Stencil | float], ...]:
    """Every group with its stencil, or with `rest` where no set owns it."""
    rows: list[tuple[str, Stencil | float]] = []
    unheld: list[Group] = []
    for group, stencil in stencils.items():
        if stencil is not None:
            rows.append((group.name, stencil))
        elif spec.rest is not None:
            rows.append((group.name, spec.rest))
        else:
            unheld.append(group)
    if unheld:
        shown = ", ".join(group.name for group in unheld[:4]) + (", ..." if len(unheld) > 4 else "")
        followed = dict.fromkeys(followed_module(group) for group in unheld)
        modules = ", ".join(module for module in MODULES if module in followed)
        raise SpaceError(
            f"no set in `modules` names {modules} ({len(unheld)} groups: {shown}); "
            "name them in a set, or give `rest`, the coefficient they are held at"
        )
    return tuple(rows)
