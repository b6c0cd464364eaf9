"""Check a recipe against its method and the model's groups, before any weight is read."""

from collections.abc import Iterable
from typing import Any, get_args

from pydantic import ValidationError

from merging.errors import MergeError
from merging.frozen import Frozen
from merging.groups import Group
from merging.methods import METHODS, Method
from merging.recipe import Recipe
from merging.yaml_file import in_words, shown, suggest


def check_recipe(recipe: Recipe, groups: Iterable[Group]) -> None:
    """Refuse what the method cannot do, and coefficients that are not one full row for every group.

    `groups` are those that are merged. Raises `MergeError`.
    """
    structure = check_method(recipe)
    method = METHODS[recipe.method]
    groups = list(groups)
    names = [group.name for group in groups]
    if not names:
        raise MergeError(f"a merge must have something to merge, but {', '.join(recipe.unmerged)} are `unmerged`.")
    for group in recipe.coefficients:
        if group.rpartition(".")[2] in recipe.unmerged:
            raise MergeError(f"`{group}` is `unmerged`, so it has no coefficients; take its row out.")
        if group not in names:
            raise MergeError(f"the model has no group `{group}`; {suggest(group, names)}.")
    missing = [group for group in names if group not in recipe.coefficients]
    if missing:
        raise MergeError(
            f"every group must have a row of coefficients, but {len(missing)} of {len(names)} have none, "
            f"first `{missing[0]}`."
        )
    if recipe.path is not None:
        _check_path(recipe, sorted({group.layer for group in groups if group.layer is not None}))
    wanted = method.coefficients(tuple(recipe.experts))
    error = method.row_error((1.0,) * len(wanted), structure)
    if error is not None:  # ones are a row that every method takes, so it is the settings
        raise MergeError(f"`{method.name}`: {error}.")
    for group in names:
        check_row(group, recipe.coefficients[group], wanted, method, structure, len(recipe.experts))


def _check_path(recipe: Recipe, layers: list[int]) -> None:
    if not recipe.path:
        raise MergeError("a path must have at least one layer, but has none.")
    models = [*(["base"] if recipe.base is not None else []), *recipe.experts]
    for number, visit in enumerate(recipe.path):
        if visit.layer not in layers:
            raise MergeError(
                f"layer {number} of the path must be one of the models' layers {layers[0]} to {layers[-1]}, but is "
                f"{visit.layer}."
                if layers
                else "a path needs models with numbered layers, but there are none."
            )
        if visit.source is not None and visit.source not in models:
            raise MergeError(
                f"layer {number} of the path must be of the merge or of a model in it, but there is no "
                f"`{visit.source}`; {suggest(visit.source, models)}."
            )


def check_method(recipe: Recipe) -> Frozen:
    """The recipe's settings, checked and with defaults filled in; its coefficients are not looked at.

    Raises `MergeError` where the method is unknown, does not fit the number of models, or refuses a setting.
    """
    method = METHODS.get(recipe.method)
    if method is None:
        raise MergeError(f"there is no method `{recipe.method}`; {suggest(recipe.method, list(METHODS))}.")
    if method.needs_base and recipe.base is None:
        raise MergeError(
            f"`{method.name}` adds to a base, but the recipe has none; name a `base`, or use `linear` to average."
        )
    _check_count(recipe, method)
    return _structure(recipe, method)


def _check_count(recipe: Recipe, method: Method) -> None:
    experts = len(recipe.experts)
    models = experts + (recipe.base is not None)
    if experts < method.min_experts:
        least = f"{method.min_experts} expert{'s' if method.min_experts > 1 else ''}"
        raise MergeError(f"`{method.name}` must have at least {least}, but has {experts}; add one.")
    if method.max_experts is not None and experts > method.max_experts:
        raise MergeError(
            f"`{method.name}` must have at most {method.max_experts} experts, but has {experts}; "
            "leave some out, or choose another method."
        )
    if models < method.min_models:
        raise MergeError(
            f"`{method.name}` must have at least {method.min_models} models, base included, but has {models}; add one."
        )


def _structure(recipe: Recipe, method: Method) -> Frozen:
    for setting, value in recipe.structure.items():
        if isinstance(value, bool) and _is_number(method.structure, setting):
            raise MergeError(f"`{method.name}`: `{setting}` must be a number, but is {shown(value)}.")
    try:
        return method.structure.model_validate(recipe.structure)
    except ValidationError as error:
        raise MergeError("\n".join(explained(error, method))) from None


def _is_number(structure: type[Frozen], setting: str) -> bool:
    """Whether a setting is a number and no truth, which pydantic would make one of."""
    kinds = _kinds(structure.model_fields[setting].annotation) if setting in structure.model_fields else set()
    return bool not in kinds and bool({int, float} & kinds)


def _kinds(annotation: Any) -> set[Any]:
    """The types that stand in an annotation."""
    return {annotation}.union(*(_kinds(part) for part in get_args(annotation)))


def explained(error: ValidationError, method: Method) -> list[str]:
    """A sentence for each setting of a method that pydantic refuses.

    Of a setting that may be of several kinds, one number or one per expert say, it is the kind that was given.
    """
    problems: dict[Any, list[Any]] = {}
    for problem in error.errors():
        problems.setdefault(problem["loc"][:1], []).append(problem)
    return [_explain(max(some, key=_nearness), method) for some in problems.values()]


def _nearness(problem: Any) -> int:
    """How far pydantic came: errors of kind come before those of value."""
    return 0 if problem["type"].endswith(("_type", "_parsing")) else len(problem["loc"])


def _explain(problem: Any, method: Method) -> str:
    setting = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        known = list(method.structure.model_fields)
        there_is = suggest(setting, known) if known else "it has no settings"
        return f"`{method.name}` has no setting `{setting}`; {there_is}."
    # what several settings must be together says the values itself
    met = f"`{setting}` {in_words(problem)}, but is {shown(problem['input'])}" if setting else in_words(problem)
    return f"`{method.name}`: {met}."


def check_row(
    group: str,
    row: tuple[float, ...],
    wanted: tuple[str, ...],
    method: Method,
    structure: Frozen,
    experts: int,
) -> None:
    """Raises `MergeError` where a row does not have the coefficients `wanted`, or the method refuses it."""
    if len(row) != len(wanted):
        if len(wanted) == experts:
            rule = f"one weight per expert, but got {len(row)} weights for {experts} experts"
        else:
            rule = f"one number for each of {', '.join(wanted)}, but got {len(row)}"
        raise MergeError(f"`{group}` must have {rule}.")
    error = method.row_error(row, structure)
    if error is not None:
        raise MergeError(f"`{group}`: {error}.")
