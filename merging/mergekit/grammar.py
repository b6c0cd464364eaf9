"""A mergekit merge config as a frozen type, every key it may have."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from merging.frozen import Frozen
from merging.mergekit.reference import ModelReference
from merging.mergekit.settings import Parameters
from merging.mergekit.templates import template_fault
from merging.numbers import Whole
from merging.yaml_file import shown

TEMPLATES = ("auto", "alpaca", "chatml", "exaone", "llama3", "mistral")


def _dtype(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


DType = Annotated[Literal["float32", "bfloat16", "float16", "float64"], BeforeValidator(_dtype)]


class InputModel(Frozen):
    """All layers of a model."""

    model: ModelReference
    parameters: Parameters | None = None


class InputSlice(Frozen):
    """Some layers of a model: from the first of `layer_range` to the one before its second."""

    model: ModelReference
    layer_range: tuple[Annotated[Whole, Field(ge=0)], Annotated[Whole, Field(ge=0)]]
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _some_layers(self) -> "InputSlice":
        first, end = self.layer_range
        if first >= end:
            raise ValueError(
                f"`layer_range` is from the first layer to one before the second number, but is {[first, end]}"
            )
        return self

    @property
    def layers(self) -> range:
        return range(*self.layer_range)


class OutputSlice(Frozen):
    """Consecutive layers of the result, merged from as many layers of each source.

    `residual_weight` is in mergekit's grammar and has no effect there or here.
    """

    sources: tuple[InputSlice, ...] = Field(min_length=1)
    base_model: ModelReference | None = None
    residual_weight: float | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _as_many_layers_each(self) -> "OutputSlice":
        counts = [len(source.layers) for source in self.sources]
        if any(count != counts[0] for count in counts):
            shown = ", ".join(f"{list(source.layer_range)} of {source.model}" for source in self.sources)
            raise ValueError(f"all sources of a slice must have the same number of layers, but there is {shown}")
        return self


class Module(Frozen):
    """A part of the model with layers of its own: encoder or decoder, text or vision."""

    slices: tuple[OutputSlice, ...] | None = None
    models: tuple[InputModel, ...] | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Module":
        if bool(self.slices) == bool(self.models):
            raise ValueError(f"exactly one of `models` and `slices` must be given, but {_count(bool(self.slices))} is")
        return self


class ModelToken(Frozen):
    """The row of one token of one model."""

    kind: Literal["model_token"]
    model: ModelReference
    token: str | None = None
    token_id: Annotated[Whole, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "ModelToken":
        if (self.token is None) == (self.token_id is None):
            both = "neither is" if self.token is None else "both are"
            raise ValueError(f"exactly one of `token` and `token_id` must be given, but {both}")
        return self


class ZeroToken(Frozen):
    """A row of zeros."""

    kind: Literal["zero"]


def _token_source(value: Any) -> Any:
    if isinstance(value, dict) and value.get("kind") == "zero":
        return ZeroToken.model_validate(value)
    if isinstance(value, dict) and value.get("kind") == "model_token":
        return ModelToken.model_validate(value)
    if isinstance(value, dict) and "kind" in value:
        raise ValueError(f"`kind` must be 'model_token' or 'zero', but is {shown(value['kind'])}")
    return ModelReference.model_validate(value) if value is not None else None


class TokenRow(Frozen):
    """Where a token's row comes from in models that lack the token; with `force` in all of them."""

    source: Annotated[ModelToken | ZeroToken | ModelReference | None, BeforeValidator(_token_source)] = None
    force: bool = False


def _tokenizer_source(value: Any) -> Any:
    return value if value in ("union", "base") else ModelReference.model_validate(value)


TokenizerSource = Annotated[Literal["union", "base"] | ModelReference, BeforeValidator(_tokenizer_source)]


class Tokenizer(Frozen):
    """Which tokens the result has, and where rows come from that a model lacks."""

    source: TokenizerSource = "union"
    tokens: dict[str, TokenRow] | None = None
    pad_to_multiple_of: Annotated[Whole, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_mapping(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"must be a mapping of keys to values; write `tokenizer: {{source: {value}}}`")
        return value


class MergeConfig(Frozen):
    """One merge. `name` is what other documents of the same file call its result."""

    merge_method: str
    name: str | None = Field(default=None, min_length=1)
    models: tuple[InputModel, ...] | None = None
    slices: tuple[OutputSlice, ...] | None = None
    modules: dict[str, Module] | None = None
    base_model: ModelReference | None = None
    dtype: DType | None = None
    out_dtype: DType | None = None
    tokenizer_source: TokenizerSource | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _one_layout(self) -> "MergeConfig":
        given = [key for key in ("models", "slices", "modules") if getattr(self, key)]
        if len(given) != 1:
            shown = " and ".join(f"`{key}`" for key in given) or "none"
            raise ValueError(f"exactly one of `models`, `slices` and `modules` must be given, but there is {shown}")
        if self.tokenizer_source and self.tokenizer:
            raise ValueError("only one of `tokenizer` and the older `tokenizer_source` may be given, but both are")
        return self

    @model_validator(mode="after")
    def _a_known_template(self) -> "MergeConfig":
        text = self.chat_template
        if text is not None and text not in TEMPLATES and (len(text) < 20 or "{" not in text):
            raise ValueError(
                f"`chat_template` must be one of {', '.join(TEMPLATES)}, or the template itself, of at least 20 "
                f"characters with a `{{` among them, but is {text!r}"
            )
        fault = None if text is None or text in TEMPLATES else template_fault(text)
        if fault is not None:
            raise ValueError(f"`chat_template` must be a template that Jinja reads, but {fault}")
        return self

    def tokens(self) -> Tokenizer | None:
        """What the config says about tokens, whichever key says it."""
        if self.tokenizer_source is not None:
            return Tokenizer(source=self.tokenizer_source)
        return self.tokenizer

    def references(self) -> list[ModelReference]:
        """Every model that goes into the merge, once each: the base first, then in the file's order."""
        found = {str(one): one for one in self._mentioned()}
        return list(found.values())

    def _mentioned(self) -> Iterator[ModelReference]:
        if self.base_model is not None:
            yield self.base_model
        parts: list[MergeConfig | Module] = [self, *(self.modules or {}).values()]
        for part in parts:
            for model in part.models or ():
                yield model.model
            for piece in part.slices or ():
                if piece.base_model is not None:
                    yield piece.base_model
                for source in piece.sources:
                    yield source.model


def _count(one: bool) -> str:
    return "both" if one else "neither"
