"""A model as mergekit configs name it: `path[@revision][+adapter[@revision]]`, or a mapping that says the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from merging.frozen import Frozen
from merging.places import found
from merging.recipe import Source


def _mapping(value: Any) -> Any:
    if not isinstance(value, dict | Frozen):
        raise ValueError("must be a model, as `path@revision+adapter` or a mapping that says the same")
    return value


class ModelPath(Frozen):
    """A local folder or a Hub id, with a revision of the Hub."""

    path: str = Field(min_length=1)
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return _mapping(value)
        if found(value):  # a local path may have `@` in it
            return {"path": value}
        path, _, revision = value.partition("@")
        if "@" in revision:
            raise ValueError(
                f"a model may have one `@`, before its revision, but {value!r} has {value.count('@')}; "
                "write `{path: ..., revision: ...}`"
            )
        return {"path": path, "revision": revision or None}

    def __str__(self) -> str:
        return f"{self.path}@{self.revision}" if self.revision else self.path

    def source(self) -> Source:
        """The same for `merging.checkpoint`."""
        return Source(path=self.path, revision=self.revision)


class ModelReference(Frozen):
    """A model, with an adapter over it where `lora` is given.

    `override_architecture` is accepted and has no say: architectures are told from the names of weights.
    """

    model: ModelPath
    lora: ModelPath | None = None
    override_architecture: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return _mapping(value)
        if found(value):  # a local path may have `+` in it
            return {"model": value}
        model, plus, lora = value.partition("+")
        if "+" in lora:
            raise ValueError(
                f"a model may have one `+`, before its adapter, but {value!r} has {value.count('+')}; "
                "write `{model: ..., lora: ...}`"
            )
        return {"model": model, "lora": lora} if plus else {"model": model}

    def __str__(self) -> str:
        return f"{self.model}+{self.lora}" if self.lora else str(self.model)

    def same(self, other: "ModelReference | None") -> bool:
        """Whether both name one model."""
        return other is not None and (self.model, self.lora) == (other.model, other.lora)


def located_reference(reference: ModelReference, folder: Path, named: Mapping[str, Path]) -> ModelReference:
    """The reference with local paths made absolute: relative to `folder`, or else to where the command was given.

    `named` are the results of other documents of the file, which go before folders of that name.
    """

    def placed(model: ModelPath) -> ModelPath:
        if model.path in named:
            return ModelPath(path=str(named[model.path]))
        place = found(model.path, (folder, Path.cwd()))
        return model if place is None else model.model_copy(update={"path": str(place.resolve())})

    lora = placed(reference.lora) if reference.lora else None
    return reference.model_copy(update={"model": placed(reference.model), "lora": lora})
