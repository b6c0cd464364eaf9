"""Read the recipe of `mergeopt merge`: a short YAML file, or the JSON that an export wrote."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from merging.check import check_method, check_recipe
from merging.checkpoint import open_checkpoint
from merging.errors import MergeError
from merging.file_kinds import refuse_other_kinds
from merging.frozen import Frozen
from merging.groups import Group, groups_of
from merging.methods import METHODS
from merging.named import Model, NamedMethod, located
from merging.recipe import DType, Recipe, Source, Unmerged
from merging.yaml_file import parse, read_mapping, suggest

_DEFAULT = "default"


class RecipeFile(Frozen):
    """A merge as someone writes it down.

    `weights` gives one number per coefficient for all groups. `coefficients` gives a row for each group; a
    row named `default` stands for the groups that have none. `unmerged` names modules that are not merged and have no
    rows.
    """

    method: NamedMethod
    base: Model | None = None
    experts: dict[str, Model] = Field(min_length=1)
    weights: dict[str, float] | None = None
    coefficients: dict[str, dict[str, float]] | None = None
    seed: int = 0
    dtype: DType | None = None
    unmerged: Unmerged = ()

    @model_validator(mode="after")
    def _weights_are_said_once(self) -> "RecipeFile":
        if (self.weights is None) == (self.coefficients is None):
            got = "both" if self.weights is not None else "neither"
            raise ValueError(f"exactly one of `weights` and `coefficients` must be given, but {got} is")
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
        recipe = parse(content, Recipe, str(path))
        recipe = recipe.model_copy(
            update={
                "base": _located(recipe.base, folder) if recipe.base else None,
                "experts": {name: _located(source, folder) for name, source in recipe.experts.items()},
            }
        )
        check_method(recipe)
        check_recipe(recipe, _groups(recipe.base or next(iter(recipe.experts.values())), recipe.unmerged))
        return recipe
    written = parse(content, RecipeFile, str(path))
    written = written.model_copy(
        update={
            "base": _located(written.base, folder) if written.base else None,
            "experts": {name: _located(model, folder) for name, model in written.experts.items()},
            "method": _with_statistics(written.method, folder),
        }
    )
    first = written.base or next(iter(written.experts.values()))
    return written.recipe(_groups(Source(**first.model_dump()), written.unmerged))


def _groups(source: Source, unmerged: Sequence[str]) -> list[Group]:
    return groups_of(open_checkpoint(source).names, unmerged)


def _located(model: Any, folder: Path) -> Any:
    return model.model_copy(update={"path": located(model.path, folder)})


def _with_statistics(method: NamedMethod, folder: Path) -> NamedMethod:
    """The method with the folder of its statistics, where it has one, found from the recipe's own."""
    place = method.structure.get("statistics")
    if not isinstance(place, str) or not place:
        return method
    return method.model_copy(
        update={"structure": {**method.structure, "statistics": str((folder / Path(place).expanduser()).resolve())}}
    )


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
