"""Modules that a merge leaves out: which tensors they are, and what a recipe says about them."""

from typing import Any

import pytest
from pydantic import ValidationError

from merging.check import check_recipe
from merging.errors import MergeError
from merging.groups import Group, groups_of, is_merged
from merging.recipe import Recipe, Source


def recipe(**changes: Any) -> Recipe:
    facts: dict[str, Any] = {
        "method": "ties",
        "base": Source(path="base"),
        "experts": {"a": Source(path="a"), "b": Source(path="b", revision="v1")},
        "coefficients": {"layer.0.mlp": (0.5, 0.25), "head": (1.0, 0.0)},
        "structure": {"density": 0.3},
        "seed": 7,
        "dtype": "bfloat16",
    }
    return Recipe(**{**facts, **changes})


@pytest.mark.parametrize("head", ["score.weight", "classifier.out_proj.bias", "lm_head.layer_norm.weight"])
def test_a_head_and_the_norms_inside_it_are_left_out_together(head: str) -> None:
    assert not is_merged(head, ("head",))
    assert is_merged(head, ("embeddings",))
    assert is_merged(head, ())


@pytest.mark.parametrize(
    "name", ["transformer.ln_f.weight", "model.norm.weight", "h.0.ln_1.weight", "h.0.mlp.c_fc.bias"]
)
def test_the_norms_of_the_body_stay_in_the_merge_without_its_head(name: str) -> None:
    assert is_merged(name, ("head", "embeddings"))


def test_norms_can_be_left_out_wherever_they_stand() -> None:
    assert not is_merged("h.0.ln_1.weight", ("norms",))
    assert not is_merged("transformer.ln_f.weight", ("norms",))
    assert is_merged("score.weight", ("norms",))


def test_unmerged_modules_have_no_groups() -> None:
    names = ["h.0.mlp.c_fc.weight", "score.weight", "wte.weight", "lm_head.layer_norm.weight"]
    assert groups_of(names, ("head",)) == [Group(0, "mlp"), Group(None, "embeddings")]


def test_a_recipe_that_merges_everything_keeps_the_digest_it_always_had() -> None:
    assert recipe().digest() == "c0bcb0267308cd34"
    assert recipe(unmerged=()).digest() == recipe().digest()


def test_what_is_left_out_is_part_of_the_digest_in_any_order() -> None:
    one, other = recipe(unmerged=("head", "embeddings")), recipe(unmerged=("embeddings", "head"))
    assert one.digest() == other.digest() != recipe().digest()
    assert recipe(unmerged=("head",)).digest() != one.digest()


@pytest.mark.parametrize(("unmerged", "named"), [(("heads",), "'heads'"), (("head", "head"), "'head' twice")])
def test_only_modules_can_be_left_out_each_once(unmerged: tuple[str, ...], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        recipe(unmerged=unmerged)


def test_a_row_for_what_is_not_merged_is_refused() -> None:
    with pytest.raises(MergeError, match=r"`head` is `unmerged`, so it has no coefficients"):
        check_recipe(recipe(unmerged=("head",)), [Group(0, "mlp")])
    rows = {"layer.0.mlp": (0.5, 0.25)}
    check_recipe(recipe(unmerged=("head",), coefficients=rows), [Group(0, "mlp")])


def test_leaving_everything_out_is_no_merge() -> None:
    with pytest.raises(MergeError, match="mlp, head are `unmerged`"):
        check_recipe(recipe(unmerged=("mlp", "head"), coefficients={}), [])
