"""Compare the tokens of models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from merging.adapters import open_expert
from merging.checkpoint import Checkpoint
from merging.mergekit.reference import ModelReference, located_reference
from merging.tokenizers.known import known_tokens
from merging.tokenizers.report import token_report
from merging.yaml_file import in_words
from optimizer.errors import InputError


def compare_tokens(models: Sequence[str]) -> dict[str, Any]:
    """`models` are folders or Hub ids, with `@revision` where wanted; adapters have the tokens of the first one.

    Raises `InputError` where one cannot be opened.
    """
    opened: dict[str, Checkpoint] = {}
    try:
        for text in models:
            reference = located_reference(_reference(text), Path.cwd(), {})
            opened[text] = open_expert(reference.model.source(), next(iter(opened.values()), None))
        return token_report({name: known_tokens(model) for name, model in opened.items()})
    except ValueError as error:
        raise InputError(str(error)) from error


def _reference(text: str) -> ModelReference:
    try:
        return ModelReference.model_validate(text)
    except ValidationError as error:
        raise InputError(f"a model of {text!r}: {in_words(error.errors()[0])}.") from None
