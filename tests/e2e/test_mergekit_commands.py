"""mergekit's configs from the command line: merged, planned, imported, exported; and tokens compared."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.e2e.commandline import Place
from tests.integration.small_job import make_shop

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A folder with the small job's `models`; what was started in it ends."""
    here = Place(tmp_path_factory.mktemp("mergekit"))
    shop = make_shop(here.folder)
    names = sorted(entry.name for entry in shop.models.iterdir() if entry.name != "base")
    experts = [{"model": f"models/{name}", "parameters": {"weight": [0.2, 0.6]}} for name in names]
    content = {"merge_method": "task_arithmetic", "base_model": "models/base", "models": experts, "dtype": "float32"}
    here.write(content, "config.yml")
    yield here
    here.kill_all()


def test_a_config_is_planned_and_then_merged(place: Place) -> None:
    shown = place.run("merge", "config.yml", "--dry-run").stdout
    assert "task_arithmetic of models/" in shown
    assert "over models/base" in shown
    (plan,) = json.loads(place.run("merge", "config.yml", "--dry-run", "--json").stdout)["merges"]
    assert not (place.folder / "merged").exists()
    place.run("merge", "config.yml", "merged", "--threads", "1")
    made = load_file(place.folder / "merged" / "model.safetensors")
    assert {one["tensor"]: one["shape"] for one in plan["tensors"]} == {
        name: list(tensor.shape) for name, tensor in made.items()
    }
    assert (place.folder / "merged" / "mergekit_config.yml").read_text() == (place.folder / "config.yml").read_text()


def test_a_misspelt_key_is_refused_and_may_be_left_out(place: Place) -> None:
    content = yaml.safe_load((place.folder / "config.yml").read_text()) | {"dtyp": "float32"}
    place.write(content, "typo.yml")
    assert "did you mean `dtype`" in place.run("merge", "typo.yml", "typo", code=2).stderr
    assert "left out the unknown key `dtyp`" in place.run("merge", "typo.yml", "typo", "--lenient").stderr


def test_options_that_say_nothing_about_what_is_done_are_refused(place: Place) -> None:
    assert "add --dry-run" in place.run("merge", "config.yml", "shown", "--json", code=2).stderr
    assert "--dry-run writes none" in place.run("merge", "config.yml", "--dry-run", "--smoke", code=2).stderr
    assert not (place.folder / "shown").exists()


def test_a_recipe_and_its_config_of_mergekit_are_one_merge(place: Place) -> None:
    expert = next(entry.name for entry in sorted((place.folder / "models").iterdir()) if entry.name != "base")
    weights = {"default": {"expert": 0.3}, "layer.0.attention": {"expert": 0.7}}
    recipe = {
        "method": "task_arithmetic",
        "base": "models/base",
        "experts": {"expert": f"models/{expert}"},
        "coefficients": weights,
    }
    place.write(recipe, "recipe.yaml")
    place.run("recipe-to-mergekit", "recipe.yaml", "-o", "written.yml")
    place.run("merge", "recipe.yaml", "one")
    place.run("merge", "written.yml", "other")
    one, other = (load_file(place.folder / name / "model.safetensors") for name in ("one", "other"))
    assert all(one[name].equal(other[name]) for name in one)
    assert "must not exist" in place.run("recipe-to-mergekit", "recipe.yaml", "-o", "written.yml", code=2).stderr


def test_a_genome_becomes_a_job_file(place: Place) -> None:
    genome = {"models": ["models/base"], "merge_method": "linear"}
    place.write({"genome": genome, "tasks": ["arc_easy"]}, "genome.yml")
    place.run("import-evolve", "genome.yml", "-o", "imported.yaml", "--max-fevals", "30")
    assert yaml.safe_load((place.folder / "imported.yaml").read_text())["search"]["budget"] == {"trials": 30}


def test_tokens_are_compared(place: Place, tmp_path: Path) -> None:
    report = json.loads(place.run("tokens", "models/base", "models/base", "--json").stdout)
    assert report["models"]["models/base"]["rows"] > 0
    assert "no such folder" in place.run("tokens", tmp_path / "nowhere", code=2).stderr
