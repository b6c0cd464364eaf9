"""The `method` of a job that searches over methods, or over a method's settings."""

import math
from collections.abc import Mapping
from itertools import islice, product
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from merging.frozen import Frozen
from merging.methods import METHODS
from merging.methods.searchable import Choices, Range, searchable
from merging.recipe import Structure
from merging.yaml_file import in_words, suggest

if TYPE_CHECKING:  # optuna takes a second to import
    from optuna.distributions import BaseDistribution

METHOD = "method"
SEARCH = "search"
_CORNERS = 256  # of the settings' ranges that are tried out at the door

Value = bool | int | float | str


class Searched(Frozen):
    """A setting that is searched: over what the method declares where `search` is None.

    `search` is `[low, high]` for a number, any list of values for a setting that has few. `log` has ratios count.
    """

    search: Annotated[tuple[Value, ...], Field(min_length=1)] | None = None
    log: bool | None = None


class SearchedMethod(Frozen):
    """A method by name, with settings that are fixed and settings that are searched beside it."""

    name: str
    structure: dict[str, Value | tuple[float, ...] | Searched] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _settings_stand_beside_the_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "structure" not in value:
            settings = {key: {} if one == SEARCH else one for key, one in value.items() if key != "name"}
            return {**({"name": value["name"]} if "name" in value else {}), "structure": settings}
        return value

    @field_validator("name")
    @classmethod
    def _a_known_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"there is no method `{name}`; {suggest(name, list(METHODS))}")
        return name

    @model_validator(mode="after")
    def _settings_can_be_searched(self) -> "SearchedMethod":
        known = METHODS[self.name].structure.model_fields
        for setting in self.structure:
            if setting not in known:
                there_is = suggest(setting, list(known)) if known else "it has no settings"
                raise ValueError(f"`{self.name}` has no setting `{setting}`; {there_is}")
        ranges = self.ranges()
        ends = [_ends(one) for one in ranges.values()]
        for corner in islice(product(*ends), _CORNERS):
            self._check({**self.fixed(), **dict(zip(ranges, corner, strict=True))})
        return self

    def _check(self, structure: Structure) -> None:
        try:
            METHODS[self.name].structure.model_validate(structure)
        except ValidationError as error:
            said = in_words(error.errors()[0])
            shown = ", ".join(f"{key} {value}" for key, value in structure.items())
            raise ValueError(f"`{self.name}` with {shown}: {said}; narrow what is searched") from None

    def fixed(self) -> Structure:
        """The settings that are not searched."""
        return {key: value for key, value in self.structure.items() if not isinstance(value, Searched)}

    def ranges(self) -> dict[str, Range | Choices]:
        """What each searched setting is searched over. Raises `ValueError` where that is not said anywhere."""
        declared = searchable(METHODS[self.name].structure)
        return {
            key: _range(f"{self.name}.{key}", value, declared.get(key))
            for key, value in self.structure.items()
            if isinstance(value, Searched)
        }

    def usual(self) -> dict[str, Any]:
        """Its searched settings at the method's defaults, in the middle where those are not searched."""
        fields = METHODS[self.name].structure.model_fields
        return {f"{self.name}.{key}": _usual(one, fields[key].default) for key, one in self.ranges().items()}


class SearchedMethods(Frozen):
    """Methods of which each trial takes one, with its settings. Written as a list, or as one method."""

    options: tuple[SearchedMethod, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _a_list_or_one(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return {"options": value}
        return {"options": [value]} if isinstance(value, dict) and "options" not in value else value

    @field_validator("options")
    @classmethod
    def _each_once(cls, options: tuple[SearchedMethod, ...]) -> tuple[SearchedMethod, ...]:
        names = [one.name for one in options]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"each method may be named once, but `{name}` is there {names.count(name)} times")
        return options

    def always(self) -> dict[str, "BaseDistribution"]:
        """The parameters that every trial has: the method where there are several, else the settings of the one."""
        from optuna.distributions import CategoricalDistribution

        if len(self.options) == 1:
            return _parameters(self.options[0])
        return {METHOD: CategoricalDistribution([one.name for one in self.options])}

    def branches(self) -> dict[str, dict[Any, dict[str, "BaseDistribution"]]]:
        """The settings that follow from the choice of a method."""
        if len(self.options) == 1:
            return {}
        return {METHOD: {one.name: _parameters(one) for one in self.options}}

    def chosen(self, parameters: Mapping[str, Any]) -> tuple[str, Structure]:
        """Method and settings of a trial."""
        one = next((one for one in self.options if one.name == parameters.get(METHOD)), self.options[0])
        searched = {key: parameters[f"{one.name}.{key}"] for key in one.ranges()}
        return one.name, {**one.fixed(), **searched}

    def point(self, method: str) -> dict[str, Any] | None:
        """The parameters that stand for a method without any setting of its own, None where there are none."""
        plain = any(one.name == method and not one.structure for one in self.options)
        return self.usual(method) if plain else None

    def usual(self, method: str) -> dict[str, Any]:
        """The parameters that stand for one of the methods as it is usually set."""
        one = next(one for one in self.options if one.name == method)
        return {**({METHOD: method} if len(self.options) > 1 else {}), **one.usual()}


def _range(where: str, wanted: Searched, declared: Range | Choices | None) -> Range | Choices:
    if not wanted.search:
        if declared is None:
            raise ValueError(f"`{where}` does not say what it can be searched over; write `search: [low, high]`")
        return declared
    numbers = [one for one in wanted.search if isinstance(one, int | float) and not isinstance(one, bool)]
    if isinstance(declared, Choices) or len(numbers) < len(wanted.search):
        return Choices(wanted.search)
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise ValueError(f"`{where}` must be searched over [low, high] with low < high, but got {list(wanted.search)}")
    log = wanted.log if wanted.log is not None else declared is not None and declared.log and numbers[0] > 0
    return Range(numbers[0], numbers[1], log=log, whole=declared is not None and declared.whole)


def _usual(one: Range | Choices, default: Any) -> Value:
    if isinstance(one, Choices):
        return default if default in one.options else one.options[0]
    if isinstance(default, int | float) and one.low <= default <= one.high:
        return default
    middle = math.sqrt(one.low * one.high) if one.log else (one.low + one.high) / 2
    return round(middle) if one.whole else middle


def _ends(one: Range | Choices) -> tuple[Value, ...]:
    if isinstance(one, Choices):
        return one.options
    return (int(one.low), int(one.high)) if one.whole else (one.low, one.high)


def _parameters(method: SearchedMethod) -> dict[str, "BaseDistribution"]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, one in method.ranges().items():
        if isinstance(one, Choices):
            found[f"{method.name}.{key}"] = CategoricalDistribution(one.options)
        elif one.whole:
            found[f"{method.name}.{key}"] = IntDistribution(int(one.low), int(one.high), log=one.log)
        else:
            found[f"{method.name}.{key}"] = FloatDistribution(one.low, one.high, log=one.log)
    return found


def is_searched(value: Any) -> bool:
    """Whether what stands under `method` in a job file asks for a search: a list, or a setting to be searched."""
    if isinstance(value, list | tuple):
        return True
    if not isinstance(value, dict):
        return False
    settings = value.get("structure", value)
    return "options" in value or any(
        one == SEARCH or (isinstance(one, dict) and SEARCH in one) for one in settings.values()
    )
