"""Read the recipe of `mergeopt merge`: a short YAML file, or the JSON that an export wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from merging.check import check_method, check_recipe
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.file_kinds import refuse_other_kinds
from merging.frozen import Frozen
from merging.groups import Group, groups_of
from merging.methods import METHODS
from merging.named import Experts, Model, NamedMethod, located, usable_names
from merging.numbers import Number, Whole
from merging.recipe import DType, Recipe, Source, Structure, Unmerged, Visit
from merging.yaml_file import FileError, parse, read_mapping, shown, suggest

_DEFAULT = "default"
_SEARCH = "search"


def _visit(value: Any) -> Any:
    """A layer of the merge may be written as its number alone."""
    if not isinstance(value, int | dict) or isinstance(value, bool):
        raise ValueError("must be a layer's number, or a mapping with its `layer`")
    return {"layer": value} if isinstance(value, int) else value


class RecipeFile(Frozen):
    """A merge as someone writes it down.

    `weights` gives one number per coefficient for all groups. `coefficients` gives a row for each group; a
    row named `default` stands for the groups that have none. `unmerged` names modules that are not merged and have no
    rows. `path` are the layers of the result, by number or as a `Visit`.
    """

    method: NamedMethod
    base: Model | None = None
    experts: Experts
    weights: dict[str, Number] | None = None
    coefficients: dict[str, dict[str, Number]] | None = None
    seed: Whole = 0
    dtype: DType | None = None
    unmerged: Unmerged = ()
    path: tuple[Annotated[Visit, BeforeValidator(_visit)], ...] | None = None

    @model_validator(mode="after")
    def _weights_are_said_once(self) -> "RecipeFile":
        if (self.weights is None) == (self.coefficients is None):
            got = "both are" if self.weights is not None else "neither is"
            raise ValueError(f"exactly one of `weights` and `coefficients` must be given, but {got}")
        return self

    def recipe(self, groups: Sequence[Group]) -> Recipe:
        """The recipe with a row for every group. Raises `MergeError` where a row or a name does not fit."""
        plain = Recipe(
            method=self.method.name,
            base=Source(**self.base.model_dump()) if self.base else None,
            experts={name: Source(**model.model_dump()) for name, model in self.experts.items()},
            coefficients={},
            structure=self.method.structure,
            seed=self.seed,
            dtype=self.dtype,
            unmerged=self.unmerged,
            path=self.path,
        )
        check_method(plain)
        wanted = METHODS[self.method.name].coefficients(tuple(self.experts))
        names = [group.name for group in groups]
        given = {_DEFAULT: self.weights} if self.weights is not None else self.coefficients or {}
        rows = {group: _row(group, row, wanted) for group, row in given.items()}
        default = rows.pop(_DEFAULT, None)
        if default is not None:
            rows = {**rows, **{name: default for name in names if name not in rows}}
        recipe = plain.model_copy(update={"coefficients": rows})
        check_recipe(recipe, groups)
        # in the model's own order, whatever order the file has
        return recipe.model_copy(update={"coefficients": {name: rows[name] for name in names}})


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file or in an export's `mergeopt_recipe.json`, local paths made absolute.

    Opens the first model to learn its groups. Raises `FileError`, `CheckpointError` or `MergeError`.
    """
    content = read_mapping(path)
    refuse_other_kinds(path, content, "a recipe")
    folder = path.resolve().parent
    if path.suffix == ".json":
        recipe = located_recipe(spelled_out(path, content), folder)
        check_method(recipe)
        check_recipe(recipe, _groups(recipe.base or next(iter(recipe.experts.values())), recipe.unmerged))
        return recipe
    _refuse_search(path, content.get("method"))
    written = parse(content, RecipeFile, str(path))
    written = written.model_copy(
        update={
            "base": _located(written.base, folder) if written.base else None,
            "experts": {name: _located(model, folder) for name, model in written.experts.items()},
            "method": written.method.model_copy(
                update={"structure": _with_statistics(written.method.structure, folder)}
            ),
        }
    )
    first = written.base or next(iter(written.experts.values()))
    return written.recipe(_groups(Source(**first.model_dump()), written.unmerged))


def spelled_out(path: Path, content: dict[str, Any]) -> Recipe:
    """The recipe in the JSON that an export wrote, paths as they stand there. Raises `FileError`."""
    recipe = parse(content, Recipe, str(path))
    try:
        usable_names(recipe.experts)
    except ValueError as error:
        raise FileError(f"{path}: `experts`: {error}") from None
    return recipe


def located_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with local paths, which are seen from the folder, made absolute."""
    return recipe.model_copy(
        update={
            "base": _located(recipe.base, folder) if recipe.base else None,
            "experts": {name: _located(source, folder) for name, source in recipe.experts.items()},
            "structure": _with_statistics(recipe.structure, folder),
        }
    )


def _refuse_search(path: Path, method: Any) -> None:
    """Several methods, or settings without a value, are what jobs choose from."""
    settings = method if isinstance(method, dict) else {}
    searched = [key for key, one in settings.items() if one == _SEARCH or (isinstance(one, dict) and _SEARCH in one)]
    if isinstance(method, list) or searched:
        said = f"`method.{searched[0]}` is to be searched" if searched else f"`method` is a list of {len(method)}"
        raise FileError(
            f"{path}: a recipe must have one method, and a value for each setting, but {said}; searching belongs in a "
            "job file, for `mergeopt run`."
        )


def _groups(source: Source, unmerged: Sequence[str]) -> list[Group]:
    return groups_of(open_checkpoint(source).names, unmerged)


def _located(model: Any, folder: Path) -> Any:
    return model.model_copy(update={"path": located(model.path, folder)})


def _with_statistics(structure: Structure, folder: Path) -> Structure:
    """The settings with the folder of statistics, where they name one, found from the recipe's own."""
    place = structure.get("statistics")
    if not isinstance(place, str) or not place:
        return structure
    try:
        return {**structure, "statistics": str((folder / Path(place).expanduser()).resolve())}
    except (OSError, ValueError, RuntimeError) as error:  # a null character, `~` of nobody
        raise FileError(f"`statistics` must be a folder, but is {shown(place)} ({error}).") from error


def _row(group: str, row: dict[str, float], wanted: Sequence[str]) -> tuple[float, ...]:
    where = "`weights`" if group == _DEFAULT else f"`{group}`"
    for name in row:
        if name not in wanted:
            raise MergeError(
                f"{where} has a number for `{name}`, which is none of its coefficients; {suggest(name, list(wanted))}."
            )
    missing = [name for name in wanted if name not in row]
    if missing:
        raise MergeError(f"{where} must have a number for each of {', '.join(wanted)}, but lacks {', '.join(missing)}.")
    return tuple(row[name] for name in wanted)
