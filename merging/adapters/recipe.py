"""Read the recipe of `mergeopt merge-adapters`, and carry it out."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from merging.adapters.combine import Combined, Way, combine
from merging.adapters.files import Adapter, is_adapter, open_adapter
from merging.adapters.settings import unknown_numbers
from merging.adapters.write import write_adapter
from merging.checkpoint import open_checkpoint
from merging.errors import CheckpointError, MergeError
from merging.file_kinds import refuse_other_kinds
from merging.frozen import Frozen
from merging.groups import group_of
from merging.locate import locate
from merging.named import Adapters, Model, NamedModel, located
from merging.numbers import Number, Whole
from merging.recipe import DType, Recipe, Source
from merging.recipe_file import located_recipe, spelled_out
from merging.sources import Sources
from merging.yaml_file import parse, read_mapping, suggest

_DEFAULT = "default"


class AdapterRecipe(Frozen):
    """A merge of adapters into one adapter, as someone writes it down (see `merging.adapters.combine`).

    `weights` gives one number per adapter for all tensors, `coefficients` a row for each group of tensors
    (`merging.groups`); a row named `default` stands for the groups that have none. `base` is needed only where adapters
    hold whole tensors; its path then stands in the result as the model it is for. `dtype` is that of the result.
    """

    adapters: Adapters
    weights: dict[str, Number] | None = None
    coefficients: dict[str, dict[str, Number]] | None = None
    combine: Way = "products"
    rank: Annotated[Whole, Field(gt=0)] | None = None
    base: Model | None = None
    dtype: DType = "float32"

    @model_validator(mode="after")
    def _weights_are_said_once(self) -> "AdapterRecipe":
        if (self.weights is None) == (self.coefficients is None):
            got = "both are" if self.weights is not None else "neither is"
            raise ValueError(f"exactly one of `weights` and `coefficients` must be given, but {got}")
        return self

    def row(self, tensor: str) -> Mapping[str, float]:
        """The weights of a tensor by its name in the model. Raises `MergeError` where its group has none."""
        if self.coefficients is None:
            return self.weights or {}
        group = group_of(tensor).name
        row = self.coefficients.get(group, self.coefficients.get(_DEFAULT))
        if row is None:
            raise MergeError(
                f"`coefficients` must have a row for every group that an adapter changes, but `{group}` has none; add "
                f"it, or one named `{_DEFAULT}`."
            )
        return row


def read_adapter_recipe(path: Path, rank: int | None = None) -> AdapterRecipe:
    """The recipe in a YAML file, or in the JSON beside a whole merge of adapters; local paths made absolute.

    The adapter of a whole merge is what it adds to the base. `rank` is put in the place of the file's own. Raises
    `FileError`, or `MergeError` for a whole merge by another method than task arithmetic.
    """
    content = read_mapping(path)
    folder = path.resolve().parent
    if path.suffix == ".json" and "experts" in content:
        written = _of_a_whole_merge(located_recipe(spelled_out(path, content), folder))
    else:
        refuse_other_kinds(path, content, "a recipe over adapters")
        written = parse(content, AdapterRecipe, str(path))
    if rank is not None:
        written = written.model_copy(update={"rank": rank})

    def here(model: Model) -> Model:
        return model.model_copy(update={"path": located(model.path, folder)})

    return written.model_copy(
        update={
            "adapters": {name: here(model) for name, model in written.adapters.items()},
            "base": here(written.base) if written.base is not None else None,
        }
    )


def _of_a_whole_merge(recipe: Recipe) -> AdapterRecipe:
    reason = _no_adapter(recipe)
    if reason is not None or recipe.base is None:
        raise MergeError(
            f"a whole merge is one of its adapters, too, where it is by `task_arithmetic`, but this one {reason}; name "
            "adapters and weights in a recipe of `mergeopt merge-adapters`."
        )
    names = list(recipe.experts)
    for group, row in recipe.coefficients.items():
        if len(row) != len(names):
            raise MergeError(f"`{group}` must have one weight for each of {', '.join(names)}, but has {len(row)}.")
    if any(source.fingerprint is not None for source in recipe.experts.values()):
        Sources(recipe).verify()
    return AdapterRecipe(
        adapters={name: _model(source) for name, source in recipe.experts.items()},
        coefficients={group: dict(zip(names, row, strict=True)) for group, row in recipe.coefficients.items()},
        base=_model(recipe.base),
        dtype=recipe.dtype or "float32",
    )


def _no_adapter(recipe: Recipe) -> str | None:
    """Why a whole merge is none of adapters, None where it may be."""
    if recipe.base is None:
        return "has no base"
    if recipe.method != "task_arithmetic":
        return f"is by `{recipe.method}`"
    if recipe.path is not None:
        return "follows a path of layers"
    return "leaves modules unmerged" if recipe.unmerged else None


def _model(source: Source) -> NamedModel:
    return NamedModel(path=source.path, revision=source.revision)


def merge_adapters(recipe: AdapterRecipe, folder: Path) -> Combined:
    """Merge the adapters and write the result as a folder that `peft` loads, complete or absent.

    Raises `CheckpointError` where a folder is none of an adapter that is read, `MergeError` where the adapters do not
    go together or the target exists, `OSError` where the disk fails.
    """
    adapters = {name: _opened(Source(**model.model_dump())) for name, model in recipe.adapters.items()}
    base = open_checkpoint(Source(**recipe.base.model_dump())) if recipe.base is not None else None
    _check_groups(recipe, adapters)
    combined = combine(adapters, recipe.row, recipe.combine, recipe.rank, base)
    write_adapter(combined, adapters, recipe.model_dump(mode="json"), folder, recipe.dtype)
    return replace(combined, notes=tuple(_notes(adapters)))


def _check_groups(recipe: AdapterRecipe, adapters: Mapping[str, Adapter]) -> None:
    """Beside a row for all others, one with a misspelt name would have no effect, and nobody would know."""
    rows = recipe.coefficients or {}
    modules = [f"{module}.weight" for adapter in adapters.values() for module in adapter.modules]
    tensors = [*modules, *(name for adapter in adapters.values() for name in adapter.whole)]
    changed = list(dict.fromkeys(group_of(name).name for name in tensors))
    strange = [group for group in rows if group not in (*changed, _DEFAULT)]
    if _DEFAULT in rows and strange:
        raise MergeError(f"no adapter changes the group `{strange[0]}`; {suggest(strange[0], changed)}.")


def _notes(adapters: Mapping[str, Adapter]) -> Iterator[str]:
    bases = {name: one.config.get("base_model_name_or_path") for name, one in adapters.items()}
    named = {name: Path(base).name for name, base in bases.items() if isinstance(base, str) and base}
    if len(dict.fromkeys(named.values())) > 1:
        shown = ", ".join(f"{name} for {bases[name]}" for name in named)
        yield f"the adapters say they were made for different bases: {shown}."
    for name, adapter in adapters.items():
        for key, value in unknown_numbers(adapter.config).items():
            yield f"the adapter `{name}` has `{key}: {value}`, which is not known here and has no effect."


def _opened(source: Source) -> Adapter:
    folder, from_hub = locate(source)
    if not is_adapter(folder):
        raise CheckpointError(
            f"{source.path}: must be an adapter's folder, with adapter_config.json and no model, but is not; merge "
            "whole models with `mergeopt merge`."
        )
    return open_adapter(source, folder, from_hub)
