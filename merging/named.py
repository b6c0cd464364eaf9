"""Methods and models as people write them in YAML: a plain name, or a name with details."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from merging.frozen import Frozen
from merging.recipe import Structure


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
        return value


class NamedModel(Frozen):
    """A local model folder, or a Hugging Face Hub id with an optional revision."""

    path: str = Field(min_length=1)
    revision: str | None = None


def _path_or_mapping(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def located(path: str, folder: Path) -> str:
    """A path relative to `folder` made absolute, where it is one; anything else may be a Hub id and is left alone."""
    place = folder / Path(path).expanduser()
    looks_local = path.startswith((".", "/", "~")) or place.exists()
    return str(place.resolve()) if looks_local else path


Model = Annotated[NamedModel, BeforeValidator(_path_or_mapping)]
"""A `NamedModel` that may be written as its path alone."""
