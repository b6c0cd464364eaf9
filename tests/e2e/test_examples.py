"""The job files in `examples/` run as they stand."""

import json
from pathlib import Path

import pytest
import yaml

from tests.e2e.commandline import Place

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(file.name for file in EXAMPLES.glob("*.yaml") if file.name != "demo.yaml")  # `make demo` takes minutes


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("file", FILES)
def test_an_example_job_runs_as_it_stands(place: Place, file: str) -> None:
    written = yaml.safe_load((EXAMPLES / file).read_text())
    name, objectives = written["name"], {task.get("objective", "score") for task in written["evaluate"]["tasks"]}
    assert file == f"{name}.yaml"
    place.run("run", EXAMPLES / file, "--storage", place.storage, "--folder", place.folder / "job")

    results = json.loads(place.run("report", name, "--storage", place.storage, "--json").stdout)
    assert results["state"] == "done"
    assert [trial["state"] for trial in results["trials"]] == ["complete"] * written["search"]["budget"]["trials"]
    baselines = [trial["number"] for trial in results["trials"] if trial["origin"] == "baseline"]
    assert len(baselines) == 2 + len(written["models"]["experts"]) + len(written["search"]["scales"])
    first, *others = results["test"]
    assert (first["kind"], first["trial"]) == ("winner", results["winner"])
    assert [standing["trial"] for standing in others] == [one for one in baselines if one != results["winner"]]
    assert all(standing["objectives"].keys() == objectives for standing in results["test"])
    assert results["test_openings"] == 1
    assert (place.folder / "job" / "report.html").exists()
    assert not (place.folder / "mergeopt-jobs").exists()


def test_there_are_examples() -> None:
    assert {"cma-layerwise.yaml", "tpe-global.yaml", "two-objectives.yaml"} <= set(FILES)
