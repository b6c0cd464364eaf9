"""A worker with `engine: vllm` has no gradients, and says so."""

from pathlib import Path

from test_vllm_worker import job, worker  # noqa: F401 - `job` is a fixture

from optimizer.preflight import preflight
from optimizer.spec import JobFile


def test_a_worker_with_vllm_says_which_engine_has_gradients(
    job: JobFile,  # noqa: F811
    folder: Path,
    stood_in: list[str],
) -> None:
    checked = preflight(job, folder)
    ids = [example.id for example in checked.examples if example.task == "pick"][:4]
    recipe = checked.plan.baselines[0].recipe.model_dump(mode="json")
    answer = worker(job, checked.plan, engine="vllm").gradient(recipe, ids, {"pick": 1.0})
    assert "needs `workers.engine: torch`, but it is vllm" in answer["error"]
    assert "reload_weights" not in stood_in
