"""The job files in `examples/` run as they stand."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from tests.e2e.commandline import Place

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(file.name for file in EXAMPLES.glob("*.yaml") if file.name != "demo.yaml")  # `make demo` takes minutes


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("file", FILES)
def test_an_example_job_runs_as_it_stands(place: Place, file: str) -> None:
    written = yaml.safe_load((EXAMPLES / file).read_text())
    evaluators = written["evaluate"] if isinstance(written["evaluate"], list) else [written["evaluate"]]
    tasks = [task for evaluator in evaluators for task in evaluator.get("tasks", evaluator.get("measures", []))]
    name, objectives = written["name"], {task.get("objective", "score") for task in tasks if "bound" not in task}
    bounded = sum("bound" in task for task in tasks)
    assert file == f"{name}.yaml"
    place.run("run", EXAMPLES / file, "--storage", place.storage, "--folder", place.folder / "job")

    results = json.loads(place.run("report", name, "--storage", place.storage, "--json").stdout)
    assert results["state"] == "done"
    assert [trial["state"] for trial in results["trials"]] == ["complete"] * written["search"]["budget"]["trials"]
    baselines = [trial["number"] for trial in results["trials"] if trial["origin"] == "baseline"]
    methods = written["method"] if isinstance(written.get("method"), list) else []
    usual = 2 + len(written["models"]["experts"]) + len(written["search"]["scales"])
    assert len(baselines) == usual + 2 * len(methods)
    first, *others = results["test"]
    assert (first["kind"], first["trial"]) == ("winner", results["winner"])
    assert [standing["trial"] for standing in others] == [one for one in baselines if one != results["winner"]]
    assert all(standing["objectives"].keys() == objectives for standing in results["test"])
    assert all(len(standing["kept"]) == bounded for standing in results["test"])
    assert results["test_openings"] == 1
    assert (place.folder / "job" / "report.html").exists()
    assert not (place.folder / "mergeopt-jobs").exists()


@pytest.mark.timeout(1800)
def test_the_example_with_an_evaluator_of_ones_own_can_be_copied_and_run(place: Place) -> None:
    for file in ("job.yaml", "make.py", "scores.py"):
        shutil.copy(EXAMPLES / "own-evaluator" / file, place.folder)
    place.run("make.py", program=(sys.executable,))
    ran = place.run("run", "job.yaml")
    assert f"code of yours runs here and on the workers: {place.folder / 'scores.py'}:psnr" in ran.stderr + ran.stdout

    results = json.loads(place.run("report", "own-evaluator", "--json").stdout)
    assert [trial["state"] for trial in results["trials"]] == ["complete"] * 120
    means = {standing["label"]: standing["objectives"]["score"]["mean"] for standing in results["test"]}
    winner, *_ = means.values()
    assert winner > max(means["base"], means["parent discs"], means["parent stripes"]) + 0.2  # decibels

    place.run("export", "own-evaluator", "merged")
    with safe_open(place.folder / "merged" / "diffusion_pytorch_model.safetensors", framework="pt") as weights:
        assert "up_blocks.1.conv.weight" in weights.keys()  # noqa: SIM118 - not a mapping
    alone = json.loads(place.run("evaluate", "merged", "--job", "job.yaml", "--split", "test", "--json").stdout)
    assert alone["objectives"]["score"]["mean"] == winner


def test_there_are_examples() -> None:
    assert {
        "cma-layerwise.yaml",
        "layer-path.yaml",
        "tpe-global.yaml",
        "which-method.yaml",
        "two-objectives.yaml",
    } <= set(FILES)
