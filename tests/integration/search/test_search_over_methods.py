"""A search over methods and their settings keeps the promises of every search."""

from pathlib import Path

import optuna
import pytest
from bench import Bench, FormulaPool, job_file, told, torn

from optimizer.engines import ENGINES
from optimizer.errors import InputError
from optimizer.spec import JobFile
from optimizer.study import all_trials

METHODS = ["task_arithmetic", {"name": "ties", "density": {"search": [0.05, 0.5], "log": True}, "scope": "search"}]


def over_methods(engine: str = "auto", trials: int = 30) -> JobFile:
    return job_file(method=METHODS, search={"engine": engine, "budget": {"trials": trials}, "seed": 5})


@pytest.mark.parametrize("engine", ["tpe", "random", "nsga2"])
def test_trials_take_each_of_the_methods_with_settings_of_its_own(tmp_path: Path, engine: str) -> None:
    attempt = Bench(tmp_path, over_methods(engine)).attempt(FormulaPool(2))
    attempt.coordinator.search()
    trials = all_trials(attempt.study)
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.COMPLETE] * 30
    recipes = [attempt.coordinator.recipe(trial) for trial in trials]
    trimmed = [recipe for recipe in recipes if recipe.method == "ties"]
    assert 0 < len(trimmed) < len(recipes)
    assert len({recipe.structure["density"] for recipe in trimmed}) > 1
    assert all(0.05 <= float(str(recipe.structure["density"])) <= 0.5 for recipe in trimmed)
    for trial, recipe in zip(trials, recipes, strict=True):
        assert ("ties.density" in trial.params) == (recipe.method == "ties")


def test_baselines_are_points_of_the_method_they_are_made_by(tmp_path: Path) -> None:
    attempt = Bench(tmp_path, over_methods("tpe")).attempt(FormulaPool())
    attempt.coordinator.search()
    uniform = next(one for one in all_trials(attempt.study) if one.user_attrs.get("label") == "uniform average")
    assert uniform.params["method"] == "task_arithmetic"


def test_every_method_begins_with_a_baseline_at_its_usual_settings(tmp_path: Path) -> None:
    attempt = Bench(tmp_path, over_methods("tpe")).attempt(FormulaPool())
    attempt.coordinator.search()
    first = next(one for one in all_trials(attempt.study) if one.user_attrs.get("label") == "ties 1")
    assert (first.params["method"], first.params["ties.density"], first.params["ties.scope"]) == ("ties", 0.2, "model")
    assert first.user_attrs["origin"] == "baseline"


@pytest.mark.parametrize("engine", ["tpe", "random", "nsga2"])
def test_a_search_over_methods_that_is_torn_tells_the_same_trials(tmp_path: Path, engine: str) -> None:
    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    undisturbed = Bench(tmp_path / "whole", over_methods(engine)).attempt(FormulaPool())
    undisturbed.coordinator.search()
    again = Bench(tmp_path / "torn", over_methods(engine))
    assert torn(again, 2, 9, 12, 1000) == 3
    assert told(again.study()) == told(undisturbed.study)


def test_an_engine_that_knows_coefficients_alone_is_refused() -> None:
    assert over_methods("auto").engine() == "tpe"
    with pytest.raises(InputError, match=r"coefficients alone.*tpe"):
        ENGINES["cma-es"].check_settings()
