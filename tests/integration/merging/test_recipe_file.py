"""A recipe file says what to merge in a few lines, and mistakes in it are answered."""

from pathlib import Path

import pytest
from tiny_llama import recipe_over

from merging.errors import MergeError
from merging.folder import write_checkpoint
from merging.materialize import Sources, materialize
from merging.recipe_file import read_recipe
from merging.yaml_file import FileError

MODELS = """
base: base
experts:
  reverse: reverse
  sort: {path: ./sort}
"""


@pytest.fixture
def here(zoo: Path, tmp_path: Path) -> Path:
    """A folder with the zoo's models beside the recipe file."""
    for model in zoo.iterdir():
        (tmp_path / model.name).symlink_to(model)
    return tmp_path


def written(here: Path, text: str, name: str = "recipe.yaml") -> Path:
    file = here / name
    file.write_text(text)
    return file


def refusal(here: Path, text: str) -> str:
    with pytest.raises((FileError, MergeError)) as caught:
        read_recipe(written(here, text))
    return str(caught.value)


def test_one_weight_per_expert_reaches_every_group(here: Path, zoo: Path) -> None:
    recipe = read_recipe(written(here, f"method: task_arithmetic{MODELS}weights: {{sort: 0.25, reverse: 0.5}}"))
    assert list(recipe.experts) == ["reverse", "sort"]
    assert set(recipe.coefficients.values()) == {(0.5, 0.25)}  # in the experts' order
    assert list(recipe.coefficients) == [group.name for group in Sources(recipe).groups]
    assert recipe.base is not None
    assert Path(recipe.base.path).is_absolute()
    assert Path(recipe.base.path).resolve() == zoo / "base"


def test_settings_stand_beside_the_methods_name(here: Path) -> None:
    text = f"method: {{name: ties, density: 0.3}}{MODELS}weights: {{sort: 1, reverse: 1}}\nseed: 5\ndtype: float32"
    recipe = read_recipe(written(here, text))
    assert (recipe.method, recipe.structure) == ("ties", {"density": 0.3})
    assert (recipe.seed, recipe.dtype) == (5, "float32")


def test_rows_for_groups_with_a_default_for_the_others(here: Path) -> None:
    rows = "coefficients:\n  default: {reverse: 0.1, sort: 0.2}\n  layer.1.mlp: {reverse: 1, sort: 0}\n"
    recipe = read_recipe(written(here, f"method: task_arithmetic{MODELS}{rows}"))
    assert recipe.coefficients["layer.1.mlp"] == (1.0, 0.0)
    assert recipe.coefficients["layer.0.mlp"] == (0.1, 0.2)


def test_slerp_takes_its_one_number(here: Path) -> None:
    recipe = read_recipe(written(here, f"method: slerp{MODELS}weights: {{t: 0.4}}"))
    assert set(recipe.coefficients.values()) == {(0.4,)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"methd: ties{MODELS}weights: {{reverse: 1, sort: 1}}", "unknown key `methd`; did you mean `method`?"),
        (f"method: tees{MODELS}weights: {{reverse: 1, sort: 1}}", "no method `tees`; did you mean `ties`?"),
        (
            f"method: {{name: ties, densty: 0.1}}{MODELS}weights: {{reverse: 1, sort: 1}}",
            "`ties` has no setting `densty`; did you mean `density`?",
        ),
        (
            f"method: ties{MODELS}weights: {{reverse: 1, srt: 1}}",
            "`weights` has a number for `srt`, which is none of its coefficients; did you mean `sort`?",
        ),
        (f"method: ties{MODELS}weights: {{reverse: 1}}", "`weights` must have a number for each of reverse, sort"),
        (f"method: ties{MODELS}", "exactly one of `weights` and `coefficients` must be given, but neither is"),
        (
            f"method: ties{MODELS}weights: {{reverse: 1, sort: 1}}\ncoefficients: {{}}",
            "exactly one of `weights` and `coefficients` must be given, but both is",
        ),
        (
            f"method: ties{MODELS}coefficients: {{layer.0.mpl: {{reverse: 1, sort: 1}}}}",
            "no group `layer.0.mpl`; did you mean `layer.0.mlp`?",
        ),
        (
            f"method: ties{MODELS}coefficients: {{layer.0.mlp: {{reverse: 1, sort: 1}}}}",
            "every group must have a row of coefficients",
        ),
        ("method: ties\nexperts: {}\nweights: {}", "`experts`: must have at least 1 entry, but has 0"),
        (f"method: 3{MODELS}weights: {{reverse: 1, sort: 1}}", "`method`: must be a mapping of keys to values (got 3)"),
        (
            "merge_method: linear\nmodels: [{model: reverse, parameters: {weight: 1}}]",
            "must be a recipe, but is a merge config of mergekit, which `mergeopt merge` carries out.",
        ),
        (
            "genome: {models: [reverse], merge_method: linear}\ntasks: [arc_easy]",
            "must be a recipe, but is a config of mergekit-evolve, which `mergeopt import-evolve` makes a job file of.",
        ),
    ],
)
def test_a_mistake_is_answered(here: Path, text: str, expected: str) -> None:
    assert expected in refusal(here, text)


def test_the_recipe_of_an_export_makes_the_same_model_again(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo, "dare_ties", structure={"density": 0.5}, seed=3)
    sources = Sources(recipe)
    folder = write_checkpoint(recipe, sources, tmp_path / "out", card_text="")
    again = read_recipe(folder / "mergeopt_recipe.json")
    assert again == recipe
    for (name, one), (other, two) in zip(materialize(recipe, sources), materialize(again, Sources(again)), strict=True):
        assert name == other
        assert one.equal(two)
