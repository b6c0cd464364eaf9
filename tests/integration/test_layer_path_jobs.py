"""A job may search over which layers its models have, in which order."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from merging.folder import write_checkpoint
from merging.recipe import Recipe, Visit
from merging.sources import Sources
from optimizer.errors import InputError
from optimizer.plan import Plan
from optimizer.preflight import open_evaluator, preflight
from optimizer.spec import JobFile, read_job_file
from optimizer.worker import Worker
from tests.integration.small_job import Shop, make_shop, write_job

PATH: dict[str, Any] = {"space.path": {"block": 1, "repeats": 2, "sources": ["merge", "north"], "scales": [0.5, 1.5]}}
OPEN = {"search.engine": "auto", "space.granularity": "global"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


def planned(shop: Shop, folder: Path, **changes: Any) -> tuple[JobFile, Plan, list[str]]:
    job = read_job_file(write_job(shop, folder, {**OPEN, **PATH, **changes}))
    checked = preflight(job, folder / "jobs")
    return job, checked.plan, [one.id for one in checked.examples if one.split == "search"][:8]


def test_every_baseline_is_a_point_of_the_space_and_the_models_own_path(shop: Shop, tmp_path: Path) -> None:
    job, plan, _ = planned(shop, tmp_path)
    assert job.engine() == "tpe"
    assert all(one.parameters is not None and one.parameters["path.0.use"] == 1 for one in plan.baselines)
    assert all(one.recipe.path is None for one in plan.baselines)


def test_a_trial_scores_what_its_export_does(shop: Shop, tmp_path: Path) -> None:
    job, plan, ids = planned(shop, tmp_path)
    space, worker = plan.space(job), Worker(job.model_dump(mode="json"), plan.model_dump(mode="json"))
    weights = dict.fromkeys(space.names(), 0.4)
    plain = {"path.0.use": 1, "path.0.from": "merge", "path.1.use": 1, "path.1.from": "merge"}
    points = [
        {**plain, "path.0.use": 0},
        {**plain, "path.1.use": 2, "path.1.scale": 0.7, "path.0.from": "north"},
        plain,
    ]
    evaluator = open_evaluator(job)
    for number, point in enumerate(points):
        recipe = space.recipe({**weights, **point})
        answer = worker.score(recipe.model_dump(mode="json"), ids)
        assert answer["error"] is None
        folder = write_checkpoint(recipe, Sources(recipe), tmp_path / str(number), card_text="#\n")
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        outcomes = evaluator.score(model, ids)
        assert [one.loglikelihood for one in outcomes] == pytest.approx(answer["loglikelihood"], abs=1e-5)
        assert [one.metric for one in outcomes] == answer["metric"]


def test_parameters_say_which_layers_in_words_of_the_recipe(shop: Shop, tmp_path: Path) -> None:
    job, plan, _ = planned(shop, tmp_path)
    space = plan.space(job)
    point: dict[str, Any] = dict.fromkeys(space.names(), 0.4)
    point |= {"path.0.use": 2, "path.0.scale": 0.6, "path.0.from": "north", "path.1.use": 0, "path.1.from": "merge"}
    recipe: Recipe = space.recipe(point)
    assert recipe.path == (Visit(layer=0, source="north"), Visit(layer=0, source="north", scale=0.6))
    assert list(space.distributions().further(point)) == ["path.0.scale"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search.engine": "cma-es"}, "coefficients alone"),
        ({"space.path": {"sources": ["merge", "nroth"]}}, "name 'nroth'"),
        ({"models.load": "tensors", "evaluate.tasks": ["letter"]}, "causal-lm"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_submit(
    shop: Shop, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        planned(shop, tmp_path, **changes)


def test_a_path_that_leaves_no_choice_is_refused(shop: Shop, tmp_path: Path) -> None:
    file = write_job(shop, tmp_path, {**OPEN, "space.path": {"repeats": 1, "skip": False}})
    with pytest.raises(InputError, match="leave something to search"):
        read_job_file(file)
