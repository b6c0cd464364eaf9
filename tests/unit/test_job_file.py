"""A job file is checked at the door: what is wrong is named, with what to write instead."""

from pathlib import Path

import pytest

from optimizer.errors import InputError
from optimizer.spec import read_job_file

GOOD = """
name: first
models:
  base: models/base
  experts: {math: models/math, code: {path: org/code, revision: v1}}
space: {granularity: global}
evaluate: {tasks: [one_task]}
search: {budget: {trials: 30}}
"""


def _written(folder: Path, text: str) -> Path:
    file = folder / "job.yaml"
    file.write_text(text)
    return file


def test_the_smallest_job_file_is_accepted_and_keeps_the_order_of_its_experts(tmp_path: Path) -> None:
    job = read_job_file(_written(tmp_path, GOOD))
    assert list(job.models.experts) == ["math", "code"]
    assert job.method.name == "task_arithmetic"
    assert job.search.engine == "auto"
    assert job.objectives() == ["score"]


def test_local_paths_are_relative_to_the_file_and_hub_ids_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    job = read_job_file(_written(tmp_path, GOOD))
    assert job.models.base is not None
    assert job.models.base.path == str(tmp_path / "models" / "base")
    assert job.models.experts["code"].path == "org/code"
    assert job.models.experts["code"].revision == "v1"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("space: {granularity: global, bound: [0, 1]}", "`space.bound`; did you mean `bounds`?"),
        ("search: {budget: {trails: 30}}", "`search.budget.trails`; did you mean `trials`?"),
        ("evaluate: {tasks: [{task: one, wheight: 2}]}", "`evaluate.tasks.0.wheight`; did you mean `weight`?"),
        ("worker: {count: 2}", "`worker`; did you mean `workers`?"),
        (
            "evaluate: [{evaluator: perplexity, name: w, data: {fiel: a.txt}}]",
            "`evaluate.0.data.fiel`; did you mean `file`?",
        ),
        ("evaluate: [{tasks: [a], chat_tmplate: true}]", "`evaluate.0.chat_tmplate`; did you mean `chat_template`?"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_right_one(tmp_path: Path, wrong: str, right: str) -> None:
    key = wrong.split(":")[0]
    lines = [line for line in GOOD.strip().splitlines() if not line.startswith(f"{key}:")]
    with pytest.raises(InputError) as refusal:
        read_job_file(_written(tmp_path, "\n".join([*lines, wrong])))
    assert f"unknown key {right}" in str(refusal.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("trials: 30", "trials: 0").replace("name: first", "name: 'first job'")
    with pytest.raises(InputError) as refusal:
        read_job_file(_written(tmp_path, text))
    assert "`search.budget.trials`" in str(refusal.value)
    assert "`name`" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "name: second\n", "the key `name` is written twice"),
        (GOOD.replace("trials: 30", "trials: true"), "`search.budget.trials`"),
        (
            GOOD.replace("trials: 30", "trials: 1000001"),
            "trials`: must be at most 1000000 (got 1000001)",
        ),
        (GOOD + "workers: {cpus: 5000}\n", "`workers.cpus`: must be at most 1024 (got 5000)"),
        (GOOD + "workers: {gpus: 5000}\n", "`workers.gpus`: must be at most 1024 (got 5000)"),
        (GOOD.replace("{trials: 30}", "{}"), "at least one of trials, examples, minutes"),
        (GOOD.replace("{math: models/math, code: {path: org/code, revision: v1}}", "{}"), "at least one expert"),
        (GOOD.replace("math: models", "ma.th: models"), "an expert's name must be"),
        (GOOD.replace("granularity: global", "granularty: global"), "`space.granularity` must say which kind it is"),
        (GOOD.replace("granularity: global", "granularity: globl"), "one of 'global', 'layerwise', 'smooth'"),
        (
            GOOD.replace("{tasks: [", "[{evaluator: perplexty, tasks: [", 1).replace("]}", "]}]", 1),
            "must say which kind it is",
        ),
        ("- a list\n", "must hold a mapping"),
        ("name: [unclosed\n", "is not valid YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as refusal:
        read_job_file(_written(tmp_path, text))
    assert said in str(refusal.value)


def test_a_file_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_job_file(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("genome: {models: [a], merge_method: linear}\n", "a config of mergekit-evolve, which `mergeopt import-ev"),
        ("merge_method: linear\nmodels: [{model: a}]\n", "a merge config of mergekit, which `mergeopt merge`"),
    ],
)
def test_a_config_of_mergekit_is_sent_to_the_command_that_takes_it(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=f"must be a job file, but is {said}[^\n]*$"):
        read_job_file(_written(tmp_path, text))
