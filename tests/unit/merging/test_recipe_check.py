"""A recipe that cannot work is refused before a weight is read, with the rule, the value and what there is."""

from typing import Any

import pytest

from merging.check import check_method, check_recipe
from merging.errors import MergeError
from merging.groups import Group
from merging.recipe import Recipe, Source

GROUPS = [Group(3, "attention"), Group(3, "mlp"), Group(None, "embeddings")]


def recipe(method: str = "task_arithmetic", count: int = 3, **changes: Any) -> Recipe:
    row = tuple([0.5] * count) if method != "slerp" else (0.5,)
    facts: dict[str, Any] = {
        "method": method,
        "base": Source(path="base"),
        "experts": {name: Source(path=name) for name in "abc"[:count]},
        "coefficients": {group.name: row for group in GROUPS},
    }
    return Recipe(**{**facts, **changes})


def refusal(wrong: Recipe) -> str:
    with pytest.raises(MergeError) as caught:
        check_recipe(wrong, GROUPS)
    return str(caught.value)


def test_a_sound_recipe_passes() -> None:
    check_recipe(recipe(), GROUPS)
    check_recipe(recipe("slerp", 2), GROUPS)
    check_recipe(recipe("linear", base=None), GROUPS)


def test_a_misspelt_method_is_answered_with_the_nearest() -> None:
    assert "did you mean `task_arithmetic`?" in refusal(recipe("task_aritmetic"))


def test_a_row_of_the_wrong_length_is_named() -> None:
    rows = {**recipe().coefficients, "layer.3.mlp": (0.1, 0.2)}
    assert refusal(recipe(coefficients=rows)) == (
        "`layer.3.mlp` must have one weight per expert, but got 2 weights for 3 experts."
    )
    rows = {**recipe("slerp", 2).coefficients, "layer.3.mlp": (0.1, 0.2)}
    assert "`layer.3.mlp` must have one number for each of t, but got 2" in refusal(
        recipe("slerp", 2, coefficients=rows)
    )


def test_a_group_without_a_row_is_named() -> None:
    rows = {name: row for name, row in recipe().coefficients.items() if name != "layer.3.mlp"}
    assert "1 of 3 have none, first `layer.3.mlp`" in refusal(recipe(coefficients=rows))


def test_a_row_for_a_group_the_model_lacks_is_answered_with_the_nearest() -> None:
    rows = {**recipe().coefficients, "layer.3.mpl": (0.1, 0.2, 0.3)}
    assert "no group `layer.3.mpl`; did you mean `layer.3.mlp`?" in refusal(recipe(coefficients=rows))


def test_a_missing_base_is_refused_where_one_is_needed() -> None:
    assert "the recipe has none; name a `base`" in refusal(recipe("ties", base=None))


def test_slerp_takes_two_models_or_two_experts_and_a_base() -> None:
    check_method(recipe("slerp", 1))
    check_method(recipe("slerp", 2, base=None))
    assert "at most 2 experts, but has 3" in refusal(recipe("slerp", 3))
    assert "at least 2 models, base included, but has 1" in refusal(recipe("slerp", 1, base=None))


def test_weights_that_cancel_have_no_average() -> None:
    rows = {group.name: (1.0, -1.0, 0.0) for group in GROUPS}
    message = refusal(recipe("linear", coefficients=rows))
    assert message.startswith("`layer.3.attention`: weights must not sum to zero")
    check_recipe(recipe("linear", coefficients=rows, structure={"normalize": False}), GROUPS)


@pytest.mark.parametrize(
    ("method", "structure", "expected"),
    [
        ("ties", {"densty": 0.5}, "`ties` has no setting `densty`; did you mean `density`?"),
        ("task_arithmetic", {"density": 0.5}, "`task_arithmetic` has no setting `density`; it has no settings."),
        ("ties", {"density": 0.0}, "`ties`: `density` must be above 0, but is 0.0."),
        ("dare_linear", {"density": 1.5}, "`dare_linear`: `density` must be at most 1, but is 1.5."),
        ("ties", {"scope": "layer"}, "`ties`: `scope` must be 'model', 'tensor' or 'row', but is 'layer'."),
        ("ties", {"density": True}, "`ties`: `density` must be a number, but is true."),
        (
            "ties",
            {"density": (0.5, 0.5)},
            "`ties`: `density` must be one number, or one per expert, but has 2",
        ),
        (
            "cabs",
            {"keep": 300},
            "`cabs`: `keep` must be at most `block`, but is 300 of 256; lower it",
        ),
        (
            "cabs",
            {"keep": 100},
            "`cabs`: 3 experts cannot keep 100 entries each of blocks of 256",
        ),
        ("consensus", {"votes": 4}, "`consensus`: `votes` must be at most the number of experts, 3, but is 4."),
        ("regmean", {}, "`regmean`: needs `statistics`, the folder that `mergeopt calibrate` wrote, but names none."),
        ("della", {"density": 0.1, "epsilon": 0.5}, "epsilon can be at most 0.2"),
    ],
)
def test_settings_are_checked(method: str, structure: dict[str, Any], expected: str) -> None:
    assert expected in refusal(recipe(method, structure=structure))


def test_a_rule_about_settings_together_says_its_values_once() -> None:
    said = refusal(recipe("della", structure={"density": 0.95}))
    assert said == (
        "`della`: density -/+ epsilon/2 must be above 0 and at most 1, but is 0.88 to 1.02; at density 0.95 epsilon "
        "can be at most 0.1."
    )


def test_numbers_of_experts_are_told_in_the_plural() -> None:
    assert refusal(recipe("nuslerp", 1)) == "`nuslerp` must have at least 2 experts, but has 1; add one."


def test_defaults_are_filled_in() -> None:
    checked = check_method(recipe("ties", structure={"density": 0.4})).model_dump()
    assert (checked["density"], checked["scope"], checked["average"]) == (0.4, "model", "count")


def test_recipes_share_a_digest_only_if_they_give_the_same_weights() -> None:
    digest = recipe().digest()
    assert recipe().digest() == digest
    for other in (
        recipe(seed=1),
        recipe(dtype="float16"),
        recipe("ties"),
        recipe(structure={"x": 1}),
        recipe(base=Source(path="base", revision="v2")),
        recipe(experts={name: Source(path=name) for name in "bac"}),
        # a renamed expert draws other DARE masks
        recipe(experts={name.upper(): Source(path=name) for name in "abc"}),
    ):
        assert other.digest() != digest


def test_the_fingerprint_of_statistics_stands_in_the_place_of_their_folder() -> None:
    def over(folder: str, found: str | None) -> str:
        return recipe("fisher", structure={"statistics": folder}, statistics=found).digest()

    assert over("here", "f" * 64) == over("there", "f" * 64)
    assert over("here", "f" * 64) != over("here", "e" * 64)
    assert over("here", None) != over("there", None)


def test_a_known_fingerprint_makes_the_location_irrelevant() -> None:
    here, there = (Source(path=path, fingerprint="f" * 64) for path in ("here", "there"))
    assert recipe(base=here).digest() == recipe(base=there).digest()
