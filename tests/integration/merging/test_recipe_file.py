"""A recipe file says what to merge in a few lines, and mistakes in it are answered."""

import json
from pathlib import Path

import pytest
import yaml
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
            "exactly one of `weights` and `coefficients` must be given, but both are",
        ),
        (
            f"method: ties{MODELS}coefficients: {{layer.0.mpl: {{reverse: 1, sort: 1}}}}",
            "no group `layer.0.mpl`; did you mean `layer.0.mlp`?",
        ),
        (
            f"method: ties{MODELS}coefficients: {{layer.0.mlp: {{reverse: 1, sort: 1}}}}",
            "every group must have a row of coefficients",
        ),
        ("method: ties\nexperts: {}\nweights: {}", "`experts`: there must be at least one expert, but there is none"),
        (
            f"method: 3{MODELS}weights: {{reverse: 1, sort: 1}}",
            "`method`: must be a method's name, or a mapping with its `name` and settings (got 3)",
        ),
        (
            "merge_method: linear\nmodels: [{model: reverse, parameters: {weight: 1}}]",
            "must be a recipe, but is a merge config of mergekit, which `mergeopt merge` carries out.",
        ),
        (
            "genome: {models: [reverse], merge_method: linear}\ntasks: [arc_easy]",
            "must be a recipe, but is a config of mergekit-evolve, which `mergeopt import-evolve` makes a job file of.",
        ),
        (
            "name: x\nmodels: {experts: {a: reverse}}\nsearch: {budget: {trials: 9}}",
            "must be a recipe, but is a job file, which `mergeopt run` carries out.",
        ),
        (
            "adapters: {a: reverse}\nweights: {a: 1}",
            "must be a recipe, but is a recipe over adapters, which `mergeopt merge-adapters` carries out.",
        ),
        ("method: ties\n---\nmethod: ties", "but holds 2; only a merge config of mergekit, for `mergeopt merge`, may"),
        ("", "must hold a mapping of keys to values, but is empty."),
        ("method: [ties", "is not valid YAML, line 1, column 14: expected ',' or ']'"),
        ("seed: 2024-13-45", "is not valid YAML: month must be in 1..12"),
    ],
)
def test_a_mistake_is_answered(here: Path, text: str, expected: str) -> None:
    assert expected in refusal(here, text)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("weights: {reverse: true, sort: 1}", "`weights.reverse`: must be a number (got true)"),
        ("weights: {reverse: .nan, sort: 1}", "`weights.reverse`: must be a finite number (got nan)"),
        ("weights: {reverse: half, sort: 1}", "`weights.reverse`: must be a number (got 'half')"),
        ("weights: {reverse: null, sort: 1}", "`weights.reverse`: must be a number (got null)"),
        ("weights: {1: 1, sort: 1}", "the key `weights.1` must be text; write it in quotes."),
        (
            "coefficients: {default: {reverse: true, sort: 1}}",
            "`coefficients.default.reverse`: must be a number",
        ),
        ("coefficients: {default: 3}", "`coefficients.default`: must be a mapping of keys to values (got 3)"),
        ("weights: {reverse: 1, sort: 1}\nseed: true", "`seed`: must be a number (got true)"),
        ("weights: {reverse: 1, sort: 1}\nseed: 1.5", "`seed`: must be a whole number (got 1.5)"),
        (
            "weights: {reverse: 1, sort: 1}\ndtype: int8",
            "`dtype`: must be 'float32', 'bfloat16' or 'float16'",
        ),
    ],
)
def test_only_a_number_is_a_weight_or_a_seed(here: Path, weights: str, expected: str) -> None:
    assert expected in refusal(here, f"method: task_arithmetic{MODELS}{weights}")


def test_a_weight_may_be_written_with_an_exponent(here: Path) -> None:
    recipe = read_recipe(written(here, f"method: task_arithmetic{MODELS}weights: {{reverse: 1e-3, sort: 2e1}}"))
    assert set(recipe.coefficients.values()) == {(0.001, 20.0)}


@pytest.mark.parametrize("name", ["''", '"a|b\\n"', "a.b", "a/b", "'a b'", '"\\u200b"', "x" * 61])
@pytest.mark.parametrize("as_json", [False, True])
def test_an_expert_is_called_by_a_name_that_can_stand_anywhere(here: Path, name: str, as_json: bool) -> None:
    text = f"method: linear\nexperts: {{{name}: reverse}}\n"
    text += f"coefficients: {{layer.0.mlp: {'[1]' if as_json else f'{{{name}: 1}}'}}}"
    if as_json:
        text = json.dumps(yaml.safe_load(text) | {"experts": {yaml.safe_load(name): {"path": "reverse"}}})
    with pytest.raises(FileError, match="`experts`: an expert's name must be 1 to 60 characters without dots, slashes"):
        read_recipe(written(here, text, "recipe.json" if as_json else "recipe.yaml"))


def test_an_expert_called_base_is_refused_as_in_a_job(here: Path) -> None:
    text = "method: linear\nexperts: {base: reverse, sort: sort}\nweights: {base: 1, sort: 1}"
    assert "`experts`: an expert must not be called `base`, which is the base's own name" in refusal(here, text)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("{name: ties, density: search}", "`method.density` is to be searched"),
        ("{name: ties, scale: 1, density: {search: [0.1, 0.5], log: true}}", "`method.density` is to be searched"),
        ("[ties, {name: dare_ties, density: search}]", "`method` is a list of 2"),
    ],
)
def test_a_recipe_that_asks_for_a_search_is_told_where_searches_belong(here: Path, method: str, said: str) -> None:
    told = refusal(here, f"method: {method}{MODELS}weights: {{reverse: 1, sort: 1}}")
    assert told.endswith(f"{said}; searching belongs in a job file, for `mergeopt run`.")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("density: {a: 1}", "`method.density`: must be true or false, a whole number, a number, text or a list"),
        ("density: [0.1, x]", "`method.density.1`: must be a number (got 'x')"),
        ("density: [true, 0.5]", "`method.density.0`: must be a number (got true)"),
        ("density: .nan", "`method.density`: must be a finite number (got nan)"),
    ],
)
def test_a_setting_of_no_kind_is_answered_in_one_line(here: Path, setting: str, expected: str) -> None:
    told = refusal(here, f"method: {{name: ties, {setting}}}{MODELS}weights: {{reverse: 1, sort: 1}}")
    assert expected in told
    assert "\n" not in told


def test_the_recipe_of_an_export_makes_the_same_model_again(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo, "dare_ties", structure={"density": 0.5}, seed=3)
    sources = Sources(recipe)
    folder = write_checkpoint(recipe, sources, tmp_path / "out", card_text="")
    again = read_recipe(folder / "mergeopt_recipe.json")
    assert again == recipe
    for (name, one), (other, two) in zip(materialize(recipe, sources), materialize(again, Sources(again)), strict=True):
        assert name == other
        assert one.equal(two)
