"""A config of mergekit-evolve becomes a job file that asks for the same search."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from optimizer.errors import InputError
from optimizer.import_evolve import import_evolve
from optimizer.spec import JobFile, read_job_file


def job(folder: Path, genome: dict[str, Any], **further: Any) -> tuple[JobFile, str]:
    """The job that comes of a genome, read as any job file is, and its text."""
    content = {"genome": genome, "tasks": ["arc_easy"], **further}
    (folder / "evolve.yml").write_text(yaml.safe_dump(content))
    text = import_evolve(folder / "evolve.yml", beside=folder)
    (folder / "job.yaml").write_text(text)
    return read_job_file(folder / "job.yaml"), text


def models(*names: str, **further: Any) -> dict[str, Any]:
    return {"models": [f"org/{name}" for name in names], "base_model": "org/root", **further}


def test_models_tasks_and_budget_are_taken_over(tmp_path: Path) -> None:
    found, text = job(
        tmp_path,
        models("math", "code@v1", "root", merge_method="task_arithmetic"),
        tasks=[{"name": "gsm8k", "weight": 2, "metric": "exact_match,strict-match"}, {"name": "wiki", "weight": -0.5}],
        limit=50,
        num_fewshot=3,
        apply_chat_template=False,
    )
    assert found.models.base is not None
    assert found.models.base.path == "org/root"
    assert {name: one.path for name, one in found.models.experts.items()} == {"math": "org/math", "code": "org/code"}
    assert found.models.experts["code"].revision == "v1"
    (evaluate,) = found.evaluate
    first, second = evaluate.tasks
    assert (first.metric, first.filter, first.weight, first.fewshot) == ("exact_match", "strict-match", 2.0, 3)
    assert (second.metric, second.filter, second.weight, second.direction) == ("acc", "none", 0.5, "minimize")
    assert first.limit.search == 50
    assert found.search.budget.trials == 100
    assert found.dtype == "bfloat16"
    assert "The base was one of the `models`" in text


def test_layer_groups_become_a_layerwise_space_and_filters_its_sets(tmp_path: Path) -> None:
    genome = models("math", merge_method="task_arithmetic", layer_granularity=4, filters=["self_attn", "mlp"])
    found, text = job(tmp_path, {**genome, "allow_negative_weights": True})
    assert found.space.granularity == "layerwise"
    assert found.space.layers_per_group == 4
    assert found.space.modules == ("attention", "mlp", "norms+embeddings+head+other")
    assert found.space.bounds[0] < 0
    assert "Embeddings and head have coefficients of their own" in text


def test_a_smooth_genome_has_an_anchor_for_each_group_of_layers(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "config.json").write_text('{"num_hidden_layers": 12}')
    genome = {"models": ["tuned"], "merge_method": "linear", "layer_granularity": 3, "smooth": True}
    found, _ = job(tmp_path, genome)
    assert (found.space.granularity, found.space.anchors) == ("smooth", 4)
    with pytest.raises(InputError, match="`layer_granularity` must divide the number of layers, 12, but is 5"):
        job(tmp_path, {**genome, "layer_granularity": 5})


def test_ties_is_mergekits_with_a_density_that_is_searched(tmp_path: Path) -> None:
    found, text = job(tmp_path, models("math", "code", merge_method="ties"))
    name, fixed = found.first_method()
    assert (name, fixed["compat"], fixed["average"]) == ("ties", "mergekit", "weights")
    assert found.searched_methods() is not None
    assert found.space.granularity == "global"
    assert "One density is searched" in text


def test_local_paths_are_written_as_seen_from_the_job_file(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "jobs").mkdir()
    content = {"genome": {"models": ["tuned"], "merge_method": "linear"}, "tasks": ["arc_easy"]}
    (tmp_path / "evolve.yml").write_text(yaml.safe_dump(content))
    text = import_evolve(tmp_path / "evolve.yml", beside=tmp_path / "jobs")
    assert yaml.safe_load(text)["models"]["experts"] == {"tuned": "../tuned"}


def test_an_adapter_over_the_base_becomes_an_expert(tmp_path: Path) -> None:
    found, _ = job(tmp_path, {**models(merge_method="task_arithmetic"), "models": ["org/root+org/lora"]})
    assert {name: one.path for name, one in found.models.experts.items()} == {"lora": "org/lora"}


@pytest.mark.parametrize(
    ("genome", "said"),
    [
        ({"models": ["a"], "merge_method": "ties"}, "`base_model` must be given for ties"),
        ({"models": ["a"], "merge_method": "della"}, "merge_method"),
        (
            {"models": ["a"], "merge_method": "linear", "smoth": True},
            "unknown key `genome.smoth`; did you mean `smooth`",
        ),
        ({"models": ["a", "b", "c"], "merge_method": "slerp"}, "name two models, or use `linear`"),
        ({"models": ["b+lora"], "base_model": "a", "merge_method": "ties"}, "merge it into its model first"),
        ({"models": ["a"], "base_model": "a", "merge_method": "task_arithmetic"}, "a model beside the base"),
    ],
)
def test_what_a_job_cannot_ask_for_is_refused(genome: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        job(tmp_path, genome)


def test_a_merge_config_is_sent_to_the_command_that_takes_it(tmp_path: Path) -> None:
    (tmp_path / "merge.yml").write_text("merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n")
    with pytest.raises(InputError) as refusal:
        import_evolve(tmp_path / "merge.yml")
    (line,) = str(refusal.value).splitlines()
    assert line.endswith(
        "must be a config of mergekit-evolve, but is a merge config of mergekit, which `mergeopt merge` carries out."
    )


def test_unknown_keys_are_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    genome = {"models": ["org/a"], "merge_method": "linear", "typo": 1}
    (tmp_path / "evolve.yml").write_text(yaml.safe_dump({"genome": genome, "tasks": ["arc_easy"], "ga": {"elite": 1}}))
    text = import_evolve(tmp_path / "evolve.yml", lenient=True)
    assert "The unknown key `ga` is left out." in text
    assert "The unknown key `genome.typo` is left out." in text
