"""What a worker answers when the gradient of a merge is asked for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from optimizer.cluster import RayPool, cluster
from optimizer.plan import Plan
from optimizer.pool import Answer, Unit
from optimizer.preflight import preflight
from optimizer.spec import JobFile, read_job_file
from optimizer.worker import Worker
from tests.integration.small_job import Shop, make_shop, write_job

TASKS = {"evaluate.tasks": ["letter", "pick"]}
SCALES = {"letter": 2.0, "pick": 0.5}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("store")))


def planned(shop: Shop, folder: Path, **changes: Any) -> tuple[JobFile, Plan, list[str]]:
    """The job, its plan, and a few examples of every task."""
    job = read_job_file(write_job(shop, folder, TASKS | changes))
    checked = preflight(job, folder / "jobs")
    names = [task.name for task in checked.plan.tasks]
    asked = [[one.id for one in checked.examples if one.task == name and one.split == "search"][:5] for name in names]
    return job, checked.plan, [name for row in asked for name in row]


def opened(job: JobFile, plan: Plan) -> Worker:
    return Worker(job.model_dump(mode="json"), plan.model_dump(mode="json"))


def recipe_of(plan: Plan, label: str = "uniform average") -> Any:
    return next(one.recipe for one in plan.baselines if one.label == label)


def total(ids: list[str], losses: list[float]) -> float:
    tasks = [name.partition(":")[0] for name in ids]
    return math.fsum(SCALES[task] * loss / tasks.count(task) for task, loss in zip(tasks, losses, strict=True))


def test_rows_are_the_slopes_of_the_scaled_losses_and_plain_data(shop: Shop, tmp_path: Path) -> None:
    job, plan, ids = planned(shop, tmp_path)
    worker, recipe = opened(job, plan), recipe_of(plan)
    answer = worker.gradient(recipe.model_dump(mode="json"), ids, SCALES)
    assert json.loads(json.dumps(answer)) == answer
    assert answer["error"] is None
    assert (answer["ids"], answer["digest"]) == (ids, recipe.digest())
    assert {group: len(row) for group, row in answer["rows"].items()} == dict.fromkeys(recipe.coefficients, 3)
    assert answer["tokens"]["forward"] > 0
    assert 0 < answer["model_seconds"] <= answer["seconds"]["forward"]
    assert {"materialize", "forward", "other"} <= answer["seconds"].keys()

    largest = max(abs(value) for row in answer["rows"].values() for value in row)
    for group in ("layer.0.mlp", "layer.1.attention", "embeddings", "head"):
        for expert in range(3):
            sides = []
            for step in (0.05, -0.05):
                row = list(recipe.coefficients[group])
                row[expert] += step
                beside = recipe.model_copy(update={"coefficients": {**recipe.coefficients, group: tuple(row)}})
                found = worker.gradient(beside.model_dump(mode="json"), ids, SCALES)
                sides.append(total(ids, found["losses"]))
            assert (sides[0] - sides[1]) / 0.1 == pytest.approx(answer["rows"][group][expert], abs=0.02 * largest)


def test_a_score_after_a_gradient_has_the_bits_of_one_before_it(shop: Shop, tmp_path: Path) -> None:
    job, plan, ids = planned(shop, tmp_path)
    worker = opened(job, plan)
    recipes = [recipe_of(plan, label).model_dump(mode="json") for label in ("uniform average", "base")]
    columns = ("ids", "metric", "smooth", "loglikelihood")
    before = [[worker.score(recipe, ids)[column] for column in columns] for recipe in recipes]
    slopes = [worker.gradient(recipe, ids, SCALES) for recipe in recipes]
    assert [answer["error"] for answer in slopes] == [None, None]
    after = [[worker.score(recipe, ids)[column] for column in columns] for recipe in recipes]
    assert after == before
    again = worker.gradient(recipes[0], ids, SCALES)
    assert (again["rows"], again["losses"]) == (slopes[0]["rows"], slopes[0]["losses"])


def test_an_expert_is_a_teacher_on_the_prompts_of_its_task(shop: Shop, tmp_path: Path) -> None:
    taught = {"evaluate.tasks": [{"task": "letter", "teacher": "north"}, {"task": "pick", "teacher": "west"}]}
    job, plan, ids = planned(shop, tmp_path, **taught)
    worker = opened(job, plan)
    answer = worker.gradient(recipe_of(plan).model_dump(mode="json"), ids, SCALES)
    assert answer["error"] is None
    assert all(loss > 1e-6 for loss in answer["losses"])
    own = worker.gradient(recipe_of(plan, "parent north").model_dump(mode="json"), ids, SCALES)
    for name, loss in zip(ids, own["losses"], strict=True):
        assert loss == pytest.approx(0.0, abs=1e-6) if name.startswith("letter:") else loss > 1e-6
    # another worker finds what the experts said on disk, and comes to the same
    assert opened(job, plan).gradient(recipe_of(plan).model_dump(mode="json"), ids, SCALES)["rows"] == answer["rows"]


def test_what_has_no_gradient_says_why(shop: Shop, tmp_path: Path) -> None:
    job, plan, ids = planned(shop, tmp_path, method="ties")
    rows = recipe_of(plan).coefficients
    recipe = plan.template.model_copy(update={"coefficients": rows})
    answer = opened(job, plan).gradient(recipe.model_dump(mode="json"), ids, SCALES)
    assert "`ties` is not linear in its coefficients" in answer["error"]
    assert (answer["rows"], answer["losses"]) == ({}, [])


def test_a_merge_that_overflows_fails_its_gradient_alone(shop: Shop, tmp_path: Path) -> None:
    job, plan, ids = planned(shop, tmp_path)
    worker, recipe = opened(job, plan), recipe_of(plan)
    rows = {**recipe.coefficients, "layer.0.mlp": (1e39, 0.0, 0.0)}
    broken = recipe.model_copy(update={"coefficients": rows})
    assert "must be finite" in worker.gradient(broken.model_dump(mode="json"), ids, SCALES)["error"]
    assert worker.gradient(recipe.model_dump(mode="json"), ids, SCALES)["error"] is None


def test_workers_of_a_cluster_answer_scores_and_gradients(shop: Shop, tmp_path: Path) -> None:
    job, plan, ids = planned(shop, tmp_path)
    recipe = recipe_of(plan).model_dump(mode="json")
    units = [Unit("score", recipe, tuple(ids)), Unit("slope", recipe, tuple(ids), dict(SCALES))]
    answers: list[Answer] = []
    with cluster(None, job.workers):
        pool = RayPool(job.model_dump(mode="json"), plan.model_dump(mode="json"), job.workers)
        for unit in units:
            while not pool.idle():
                assert pool.wait(1.0) == []
            pool.submit(unit)
            while not (found := pool.wait(1.0)):
                pass
            answers += found
    scored, slopes = (answer.scored for answer in answers)
    assert scored is not None
    assert slopes is not None
    expected = opened(job, plan)
    assert scored["metric"] == expected.score(recipe, ids)["metric"]
    assert slopes["rows"] == expected.gradient(recipe, ids, SCALES)["rows"]
