"""A parameter's value as mergekit configs write it: a number, a gradient over layers, or either by filters."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, model_validator

from merging.errors import MergeError
from merging.frozen import Frozen
from merging.yaml_file import shown

Scalar = bool | int | float | str
Kind = type[float] | type[bool] | type[int]


class Choice(Frozen):
    """A value for the tensors that `filter` picks: those that have it in their name, all of them for None and `*`."""

    value: Scalar | tuple[Scalar, ...]
    filter: str | None = None

    def picks(self, tensor: str) -> bool:
        return self.filter in (None, "*") or str(self.filter) in tensor


class Setting(Frozen):
    """What a config says of one parameter in one place. The first choice that picks a tensor has the say for it."""

    choices: tuple[Choice, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError("a gradient or list of filters must not be empty")
            filtered = [isinstance(entry, dict) for entry in value]
            if all(filtered):
                return {"choices": value}
            if any(filtered):
                raise ValueError("a list holds numbers, or mappings with `value` and `filter`, but this one holds both")
            strange = [one for one in value if not isinstance(one, Scalar)]
            if strange:
                raise ValueError(f"a gradient must be a list of numbers, but this one holds {shown(strange[0])}")
            return {"choices": [{"value": value}]}
        if isinstance(value, dict) and "choices" not in value:
            return {"choices": [value]}
        return {"choices": [{"value": value}]} if not isinstance(value, dict) else value

    def at(self, tensor: str, t: float, kind: Kind) -> float | bool | int | None:
        """The value for a tensor at the place `t` of its slice, 0 for the first layer to 1 for the last.

        Numbers of a gradient stand at equal distances, with straight lines between them; truth values hold up to the
        next one. None where no choice picks the tensor. Raises `ValueError` where the value is no `kind`.
        """
        for choice in self.choices:
            if choice.picks(tensor):
                if not isinstance(choice.value, tuple):
                    return _as_kind(choice.value, kind)
                return _between([_as_kind(value, kind) for value in choice.value], t, kind)
        return None


Parameters = dict[str, Setting]


def looked_up(
    name: str, places: Iterable[Mapping[str, Setting] | None], tensor: str, t: float, kind: Kind
) -> float | bool | int | None:
    """The first place that has a value for the tensor; None where none has.

    Raises `MergeError` where a value is no `kind`.
    """
    for place in places:
        if place and name in place:
            try:
                value = place[name].at(tensor, t, kind)
            except ValueError as error:
                raise MergeError(f"`{name}` for `{tensor}`: {error}.") from None
            if value is not None:
                return value
    return None


def _between(values: list[float | bool | int], t: float, kind: Kind) -> float | bool | int:
    scaled = t * (len(values) - 1)
    lower = int(scaled)
    if kind is bool:
        return values[lower]
    upper, share = min(len(values) - 1, lower + 1), scaled - lower
    return _as_kind((1 - share) * values[lower] + share * values[upper], kind)


def _as_kind(value: Scalar, kind: Kind) -> float | bool | int:
    """Numbers may be written as text (`1e-5` is text in YAML), and truth values as numbers."""
    number = _truth(value) if isinstance(value, str) and kind is bool else None
    if number is None:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"must be {_article(kind)}, but is {value!r}") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"must be finite, but is {value!r}")
    if kind is float:
        return number
    if kind(number) != number:
        raise ValueError(f"must be {_article(kind)}, but is {value!r}")
    return kind(number)


def _truth(text: str) -> float | None:
    return {"true": 1.0, "yes": 1.0, "on": 1.0, "false": 0.0, "no": 0.0, "off": 0.0}.get(text.lower())


def _article(kind: Kind) -> str:
    return {float: "a number", bool: "true or false", int: "a whole number"}[kind]
