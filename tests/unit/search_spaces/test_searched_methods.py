"""A job may search over methods and over their settings, beside the coefficients."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from merging.groups import Group
from merging.recipe import Recipe, Source
from optimizer.spec import JobMethod
from search_spaces.bound import BoundSpace
from search_spaces.errors import SpaceError
from search_spaces.methods import SearchedMethods
from search_spaces.spec import bind
from search_spaces.whole import GlobalSpace

READ = TypeAdapter(JobMethod).validate_python
GROUPS = [Group(0, "attention"), Group(0, "mlp")]


def space_of(written: Any) -> BoundSpace:
    methods = READ(written)
    assert isinstance(methods, SearchedMethods)
    first = methods.options[0]
    template = Recipe(
        method=first.name,
        base=Source(path="base"),
        experts={"a": Source(path="a"), "b": Source(path="b")},
        coefficients={},
        structure=first.fixed(),
    )
    return bind(GlobalSpace(granularity="global"), template, GROUPS, ("a", "b"), methods=methods)


def test_a_setting_is_searched_over_what_its_method_declares_or_what_the_job_says() -> None:
    space = space_of({"name": "ties", "density": {"search": [0.1, 0.4], "log": True}, "scope": "search"})
    domain = space.distributions()
    assert list(domain) == ["weight.a", "weight.b", "ties.density", "ties.scope"]
    assert (domain["ties.density"].low, domain["ties.density"].high, domain["ties.density"].log) == (0.1, 0.4, True)
    assert "tensor" in domain["ties.scope"].choices
    recipe = space.recipe({"weight.a": 0.5, "weight.b": 1.0, "ties.density": 0.2, "ties.scope": "tensor"})
    assert (recipe.method, recipe.structure) == ("ties", {"density": 0.2, "scope": "tensor"})
    assert recipe.coefficients["layer.0.mlp"] == (0.5, 1.0)


def test_of_several_methods_a_trial_has_the_settings_of_its_own_alone() -> None:
    space = space_of(["task_arithmetic", {"name": "ties", "density": {"search": [0.1, 0.9]}, "scope": "tensor"}])
    domain = space.distributions()
    assert list(domain) == ["weight.a", "weight.b", "method"]
    assert list(domain.whole({"method": "ties"})) == ["weight.a", "weight.b", "method", "ties.density"]
    assert list(domain.whole({"method": "task_arithmetic"})) == ["weight.a", "weight.b", "method"]
    weights = {"weight.a": 0.5, "weight.b": 1.0}
    assert space.recipe({**weights, "method": "task_arithmetic"}).structure == {}
    found = space.recipe({**weights, "method": "ties", "ties.density": 0.3})
    assert (found.method, found.structure) == ("ties", {"density": 0.3, "scope": "tensor"})
    with pytest.raises(SpaceError, match=r"no value|have none"):
        space.recipe({**weights, "method": "ties"})
    with pytest.raises(SpaceError, match="must be in"):
        space.recipe({**weights, "method": "slerp"})


def test_a_baseline_is_a_point_where_its_method_is_searched_without_settings() -> None:
    space = space_of(["task_arithmetic", {"name": "ties", "density": {"search": [0.1, 0.9]}}])
    assert space.express((0.3, 0.3), "task_arithmetic") == {
        "weight.a": 0.3,
        "weight.b": 0.3,
        "method": "task_arithmetic",
    }
    assert space.express((0.3, 0.3), "ties") is None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["ties", "tiess"], "did you mean `ties`"),
        (["ties", "ties"], "named once"),
        ({"name": "ties", "densty": "search"}, "did you mean `density`"),
        ({"name": "ties", "density": {"search": [0.5, 0.1]}}, "low < high"),
        ({"name": "ties", "density": {"search": [0.5, 1.5]}}, "narrow what is searched"),
        ({"name": "ties", "scope": {"search": ["tensor", "planet"]}}, "narrow what is searched"),
        ({"name": "della", "density": {"search": [0.02, 0.5]}, "epsilon": 0.14}, "narrow what is searched"),
        ([], "at least 1"),
        ({"name": "ties", "density": {"search": []}}, "at least 1"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_its_reason(written: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        READ(written)


def test_a_method_without_searched_settings_stays_a_plain_one() -> None:
    assert not isinstance(READ("ties"), SearchedMethods)
    assert not isinstance(READ({"name": "ties", "density": 0.3}), SearchedMethods)


def test_a_searched_method_survives_json() -> None:
    methods = READ(["task_arithmetic", {"name": "ties", "density": "search"}])
    assert READ(methods.model_dump(mode="json")) == methods
