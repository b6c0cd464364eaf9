"""Methods and models as people write them in YAML: a plain name, or a name with details."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from merging.frozen import Frozen
from merging.places import found
from merging.recipe import Structure
from merging.yaml_file import shown

Named = TypeVar("Named")


class NamedMethod(Frozen):
    """A method by name, with its settings beside it: `ties`, or `{name: ties, density: 0.3}`."""

    name: str
    structure: Structure = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _settings_stand_beside_the_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "structure" not in value:
            settings = {key: setting for key, setting in value.items() if key != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "structure": settings}
        if not isinstance(value, dict | NamedMethod):
            raise ValueError("must be a method's name, or a mapping with its `name` and settings")
        return value


class NamedModel(Frozen):
    """A local model folder, or a Hugging Face Hub id with an optional revision."""

    path: str = Field(min_length=1)
    revision: str | None = None


def _path_or_mapping(value: Any) -> Any:
    if not isinstance(value, str | dict | NamedModel):
        raise ValueError("must be a model's path, or a mapping with its `path`")
    return {"path": value} if isinstance(value, str) else value


def located(path: str, folder: Path) -> str:
    """A path relative to `folder` made absolute, where it is one; anything else may be a Hub id and is left alone."""
    place = found(path, [folder])
    if place is not None:
        return str(place.resolve())
    return os.path.abspath(folder / path) if path.startswith((".", "/")) else path


Model = Annotated[NamedModel, BeforeValidator(_path_or_mapping)]
"""A `NamedModel` that may be written as its path alone."""


def usable_names(models: dict[str, Named], what: str = "expert") -> dict[str, Named]:
    """The models. Raises `ValueError` where there are none, or a name cannot be part of a parameter's or a file's."""
    if not models:
        raise ValueError(f"there must be at least one {what}, but there is none; add `name: path` lines")
    for name in models:
        if name == "base":
            raise ValueError(f"an {what} must not be called `base`, which is the base's own name")
        if not 1 <= len(name) <= 60 or not name.isprintable() or any(character in name for character in "./\\ "):
            raise ValueError(
                f"an {what}'s name must be 1 to 60 characters without dots, slashes or spaces, but is {shown(name)}"
            )
    return models


Experts = Annotated[dict[str, Model], AfterValidator(usable_names)]
Adapters = Annotated[dict[str, Model], AfterValidator(partial(usable_names, what="adapter"))]
