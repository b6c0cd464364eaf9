"""Each command, run as a user runs it: what it prints, what it leaves behind, how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from evaluators.splits import content_hash
from merging.materialize import Sources, materialize
from merging.recipe import Recipe
from optimizer.cli import app
from optimizer.coordinator import recipe_of
from optimizer.plan import Plan
from optimizer.spec import JobFile
from tests.conftest import Tiny
from tests.e2e.commandline import MERGEOPT, TASKS, Place, job_content
from tests.e2e.conftest import Finished

pytestmark = pytest.mark.timeout(1800)

COMMANDS = tuple(typer.main.get_command(app).commands)  # type: ignore[attr-defined]

_HELP = """
import runpy, sys
sys.argv = [{program!r}, *{arguments!r}]
try:
    runpy.run_path({program!r}, run_name="__main__")
except SystemExit as ended:
    print("\\nLOADED", ended.code, *sys.modules)
"""


@pytest.mark.parametrize("arguments", [("--help",), *((command, "--help") for command in COMMANDS)], ids=" ".join)
def test_help_answers_without_loading_anything_heavy(arguments: tuple[str, ...]) -> None:
    code = _HELP.format(program=MERGEOPT, arguments=list(arguments))
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    text, _, loaded = said.partition("LOADED ")
    ended, *modules = loaded.split()
    assert ended == "0"
    assert "Usage: mergeopt" in text
    assert "optimizer.cli" in modules
    assert not {"torch", "ray", "lm_eval", "optuna", "transformers", "pandas"} & set(modules)


# run, and what reads a finished job


def test_run_prints_a_report_and_writes_it_as_html(finished: Finished) -> None:
    results = _results(finished)
    winner = next(one for one in results["test"] if one["kind"] == "winner")
    said = finished.ran.stdout
    assert f"The winner, {winner['label']}, scores {winner['objectives']['score']['mean']:.4f}" in " ".join(
        said.split()
    )
    assert "parent reverse" in said
    html = finished.place.folder / "mergeopt-jobs" / "small" / "report.html"
    assert "HTML report: " in said
    assert str(html) in "".join(said.split("\n"))
    assert "<html" in html.read_text()[:1000]
    (row,) = _json(finished.place, "jobs", "--json")
    assert (row["name"], row["state"], row["attempt"]) == ("small", "done", 1)


def test_running_the_same_file_again_says_it_is_done_and_does_nothing(finished: Finished) -> None:
    before = finished.place.job()
    again = finished.place.run("run", finished.file)
    assert "Job `small` is done already." in again.stderr
    assert again.stdout == finished.ran.stdout
    assert finished.place.job() == before


@pytest.mark.parametrize("command", ["run", "submit"])
def test_another_job_file_under_the_same_name_is_refused(finished: Finished, tiny: Tiny, command: str) -> None:
    other = finished.place.write(job_content(tiny, trials=21), "other.yaml")
    refused = finished.place.run(command, other, code=2)
    assert "`small` was submitted with another search" in refused.stderr
    assert "--name" in refused.stderr
    assert refused.stdout == ""


def test_show_report_and_jobs_agree(finished: Finished) -> None:
    shown = _json(finished.place, "show", "small", "--json")
    reported = _json(finished.place, "report", "small", "--json")
    (listed,) = _json(finished.place, "jobs", "--json")
    assert Path(reported.pop("html")) == Path(shown["folder"]) / "report.html"
    assert shown["results"] == reported
    assert {key: shown[key] for key in listed} == listed
    assert reported["state"] == listed["state"] == "done"
    trials = reported["trials"]
    assert [trial["number"] for trial in trials] == list(range(20))
    assert [trial["values"]["score"] for trial in trials] == [trial.values[0] for trial in finished.place.trials()]
    assert {one["trial"] for one in reported["test"]} == {
        reported["winner"],
        *(trial["number"] for trial in trials if trial["origin"] == "baseline"),
    }
    assert reported["test_openings"] == 1
    assert reported["splits"] == {"search": 120, "select": 60, "test": 180}


def test_a_report_goes_where_it_is_told(finished: Finished, tmp_path: Path) -> None:
    finished.place.run("report", "small", "--html", tmp_path / "elsewhere.html")
    assert "<html" in (tmp_path / "elsewhere.html").read_text()[:1000]


@pytest.mark.parametrize("command", [("show",), ("report",), ("resume",), ("cancel",), ("export", "somewhere")])
def test_an_unknown_job_is_refused_with_the_names_there_are(finished: Finished, command: tuple[str, ...]) -> None:
    refused = finished.place.run(command[0], "smal", *command[1:], code=2)
    assert "There is no job 'smal'" in refused.stderr
    assert "The jobs are: small." in refused.stderr


@pytest.mark.parametrize("command", ["resume", "cancel"])
def test_a_finished_job_is_neither_resumed_nor_cancelled(finished: Finished, command: str) -> None:
    assert "'small' is done" in finished.place.run(command, "small", code=2).stderr
    assert finished.place.job().state == "done"


# the queue


def test_a_submitted_job_is_carried_out_by_serve(place: Place, tiny: Tiny) -> None:
    first = place.write(job_content(tiny, name="first", trials=8))
    assert place.run("submit", first).stdout == "first\n"
    assert place.run("submit", first).stdout == "first\n"  # twice is once
    place.run("submit", first, "--name", "second")
    assert [job["state"] for job in _json(place, "jobs", "--json")] == ["queued", "queued"]

    assert "second: cancelled" in place.run("cancel", "second").stdout
    place.run("serve", "--once")
    assert [job["state"] for job in _json(place, "jobs", "--json")] == ["done", "cancelled"]
    assert len(place.trials("first")) == 8
    assert place.trials("second") == []
    assert (place.folder / "mergeopt-jobs" / "first" / "report.html").exists()


# merged models


@pytest.fixture(scope="session")
def exported(finished: Finished) -> Path:
    """The winner as a folder."""
    folder = finished.place.folder / "exported"
    said = finished.place.run("export", "small", folder)
    assert f"trial {_results(finished)['winner']} of small: {folder}\n" == said.stdout
    return folder


def test_an_export_scores_exactly_what_its_trial_scored(finished: Finished, exported: Path, tiny: Tiny) -> None:
    recorded = finished.place.outcomes(_results(finished)["winner"], "test")
    assert len(recorded) == 180
    out = finished.place.folder / "lm_eval"
    plain = ["--model", "hf", "--model_args", f"pretrained={exported},dtype=float32", "--tasks", ",".join(TASKS)]
    plain += ["--include_path", str(tiny.tasks), "--device", "cpu", "--batch_size", "64"]
    plain += ["--log_samples", "--output_path", str(out)]
    finished.place.run(*plain, program=(sys.executable, "-m", "lm_eval"))

    by_lm_eval = {}
    for task in TASKS:
        (samples,) = out.rglob(f"samples_{task}_*.jsonl")
        for row in map(json.loads, samples.read_text().splitlines()):
            by_lm_eval[f"{task}:{content_hash(row['doc'])}"] = row["exact_match"]
    assert {example: by_lm_eval[example] for example in recorded} == {
        example: outcome.metric for example, outcome in recorded.items()
    }
    assert 0 < sum(outcome.metric for outcome in recorded.values()) < 180  # otherwise this compared constants


def test_an_export_holds_the_very_weights_of_its_trial(finished: Finished, exported: Path) -> None:
    recipe = _recipe(finished.place, _results(finished)["winner"])
    wanted = dict(materialize(recipe, Sources(recipe)))
    found = load_file(exported / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(_same_bits(found[name], wanted[name]) for name in wanted)

    live = AutoModelForCausalLM.from_pretrained(exported, dtype="auto").state_dict()
    assert all(_same_bits(live[name], wanted[name]) for name in wanted)


def test_an_export_says_what_it_is(finished: Finished, exported: Path) -> None:
    recipe = Recipe.model_validate_json((exported / "mergeopt_recipe.json").read_text())
    assert recipe == _recipe(finished.place, _results(finished)["winner"])
    card = (exported / "README.md").read_text()
    assert card.startswith("---\n")  # the Hub reads a card's metadata from there
    assert "small: " in card
    winner = next(one for one in _results(finished)["test"] if one["kind"] == "winner")
    assert f"{winner['objectives']['score']['mean']:.4f}" in card
    assert (exported / "tokenizer.json").exists()


def test_a_merge_by_the_exported_recipe_gives_the_same_file(finished: Finished, exported: Path, tmp_path: Path) -> None:
    finished.place.run("merge", exported / "mergeopt_recipe.json", tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()


def test_the_winner_as_a_config_of_mergekit_gives_the_same_weights(
    finished: Finished, exported: Path, tmp_path: Path
) -> None:
    finished.place.run("export", "small", "--mergekit", tmp_path / "winner.yml")
    finished.place.run("merge", tmp_path / "winner.yml", tmp_path / "merged")
    one, two = (load_file(folder / "model.safetensors") for folder in (exported, tmp_path / "merged"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], atol=1e-6, rtol=1e-6)


def test_a_merge_by_a_recipe_in_yaml(place: Place, tiny: Tiny) -> None:
    models = {skill: str(tiny.models / skill) for skill in ("reverse", "rotate")}
    weights = {"reverse": 0.5, "rotate": 0.25}
    content = {"method": "linear", "experts": models, "weights": weights, "dtype": "float32"}
    place.run("merge", place.write(content, "recipe.yaml"), "merged")
    one, two = (load_file(tiny.models / skill / "model.safetensors") for skill in models)
    found = load_file(place.folder / "merged" / "model.safetensors")
    assert found.keys() == one.keys()
    for name, tensor in found.items():
        expected = 0.5 * one[name].float() + 0.25 * two[name].float()
        torch.testing.assert_close(tensor, expected / 0.75)  # the weights of `linear` are taken relative to their sum


def test_any_trial_can_be_exported(finished: Finished, tmp_path: Path) -> None:
    parent = next(trial["number"] for trial in _results(finished)["trials"] if trial["label"] == "parent rotate")
    said = finished.place.run("export", "small", tmp_path / "parent", "--trial", str(parent))
    assert said.stdout.startswith(f"trial {parent} of small: ")
    recipe = _recipe(finished.place, parent)
    found = load_file(tmp_path / "parent" / "model.safetensors")
    assert all(_same_bits(found[name], tensor) for name, tensor in materialize(recipe, Sources(recipe)))
    refused = finished.place.run("export", "small", tmp_path / "none", "--trial", "20", code=2)
    assert "trials 0 to 19, but --trial is 20" in refused.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["export", "merge"])
def test_a_folder_that_exists_is_left_alone(finished: Finished, exported: Path, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    source = "small" if command == "export" else exported / "mergeopt_recipe.json"
    refused = finished.place.run(command, source, folder, code=2)
    assert "must not exist, but does" in refused.stderr
    assert os.listdir(tmp_path) == ["taken"]
    assert os.listdir(folder) == ["mine.txt"]
    assert (folder / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("model", ["base", "winner"])
def test_evaluate_gives_what_the_job_recorded(finished: Finished, exported: Path, tiny: Tiny, model: str) -> None:
    kind, folder = {"base": ("base", tiny.models / "base"), "winner": ("winner", exported)}[model]
    standing = next(one for one in _results(finished)["test"] if one["kind"] == kind)
    recorded = finished.place.outcomes(standing["trial"], "test")
    scored = _json(finished.place, "evaluate", folder, "--job", finished.file, "--json")
    assert scored["split"] == "test"
    assert {row["id"]: row["metric"] for row in scored["outcomes"]} == {
        example: outcome.metric for example, outcome in recorded.items()
    }
    assert scored["objectives"]["score"]["mean"] == standing["objectives"]["score"]["mean"]
    assert scored["tasks"].keys() == standing["tasks"].keys()
    for task, estimate in standing["tasks"].items():
        assert scored["tasks"][task]["mean"] == estimate["mean"]
        assert scored["tasks"][task]["n"] == 60


# doctor


def test_doctor_finds_nothing_wrong_with_a_good_job(finished: Finished) -> None:
    checks = _json(finished.place, "doctor", finished.file, "--json")
    assert {check["name"] for check in checks} >= {"python", "torch", "database", "ray", "memory", "disk", "job file"}
    assert all(check["ok"] for check in checks)
    (job,) = (check for check in checks if check["name"] == "job file")
    assert "6 baselines, examples: 120 search, 60 select, 180 test" in job["found"]


def test_doctor_says_what_is_wrong_with_a_bad_job(place: Place, tiny: Tiny) -> None:
    content = job_content(tiny)
    content["evaluate"]["tasks"][1]["task"] = "tiny_rotat"
    checks = json.loads(place.run("doctor", place.write(content), "--json", code=2).stdout)
    (wrong,) = (check for check in checks if not check["ok"])
    assert wrong["name"] == "job file"
    assert "task `tiny_rotat` is not known. Nearest: tiny_rotate" in wrong["found"]


def _json(place: Place, *arguments: str | Path) -> Any:
    return json.loads(place.run(*arguments).stdout)


def _results(finished: Finished) -> dict[str, Any]:
    """What the database keeps of the finished job."""
    result: dict[str, Any] = finished.place.job().result
    return result


def _recipe(place: Place, number: int) -> Recipe:
    """A trial's recipe, from what the database holds of it."""
    job = place.job()
    space = Plan.model_validate(job.plan).space(JobFile.model_validate(job.spec))
    return recipe_of(place.trials()[number], space)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
