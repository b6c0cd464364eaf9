"""A worker with `engine: vllm` scores as one with torch does; vLLM is played by transformers (`stand_in.py`)."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_models import EXPERTS, likelihood_questions, recipes, text_questions
from torch import nn
from transformers import AutoModelForCausalLM

from evaluators.lm import LanguageModel
from evaluators.meter import Meter
from evaluators.vllm.engine import VllmModel, open_vllm
from evaluators.vllm.spec import VllmSpec
from optimizer.preflight import preflight
from optimizer.spec import JobFile, read_job_file
from optimizer.worker import Worker
from tests.integration.evaluators.small_tasks import (
    CHOICE,
    LETTER,
    character_tokenizer,
    choice_rows,
    letter_rows,
    write_task,
)

TOKENIZER = character_tokenizer(chat=False)


def in_vllm(folder: Path, **spec: Any) -> VllmModel:
    return open_vllm(str(folder / "base"), VllmSpec(**spec), gpus=1, dtype="float32")


@pytest.fixture
def job(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobFile:
    """A job of every kind of lm-eval task, for the torch engine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_task(tmp_path, "letter", {"validation": letter_rows(2, 40), "test": letter_rows(3, 30)}, **LETTER)
    write_task(tmp_path, "pick", {"test": choice_rows(1, 60)}, **CHOICE)
    texts = {"test": [{"text": " ".join(row["word"] for row in letter_rows(seed, 40))} for seed in range(30)]}
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    write_task(tmp_path, "stream", texts, **rolling, metric_list=[{"metric": "bits_per_byte"}])
    content = {
        "name": "guest",
        "models": {"base": str(folder / "base"), "experts": {name: str(folder / name) for name in EXPERTS}},
        "space": {"granularity": "layerwise"},
        "evaluate": {"include_path": str(tmp_path), "tasks": ["letter", "pick", "stream"]},
        "search": {"engine": "random", "budget": {"trials": 20}},
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(content))
    return read_job_file(file)


def worker(job: JobFile, plan: Any, **workers: Any) -> Worker:
    changed = job.model_copy(update={"workers": job.workers.model_copy(update=workers)})
    return Worker(changed.model_dump(mode="json"), plan.model_dump(mode="json"))


def test_a_worker_scores_every_recipe_as_one_with_the_torch_engine(
    job: JobFile, folder: Path, stood_in: list[str]
) -> None:
    checked = preflight(job, folder)
    # vLLM's window is two tokens shorter, and the texts of `stream` are cut by it
    ids = [example.id for example in checked.examples if example.split == "search" and example.task != "stream"]
    ours, guest = worker(job, checked.plan), worker(job, checked.plan, engine="vllm")
    for recipe in recipes(folder, 2):
        wanted = checked.plan.template.model_copy(update={"coefficients": recipe.coefficients}).model_dump(mode="json")
        expected, found = ours.score(wanted, ids), guest.score(wanted, ids)
        assert found["error"] is None
        assert (found["ids"], found["metric"], found["digest"]) == (ids, expected["metric"], expected["digest"])
        for column in ("smooth", "loglikelihood"):
            assert found[column] == pytest.approx(expected[column], abs=1e-4)
        assert {"materialize", "forward", "generation", "metrics"} <= found["seconds"].keys()
        assert found["tokens"].keys() == expected["tokens"].keys()
        assert found["model_seconds"] > 0
    assert stood_in == ["reload_weights", "reset_prefix_cache"] * 2


def test_texts_longer_than_the_window_are_scored_to_their_end(job: JobFile, folder: Path, stood_in: list[str]) -> None:
    checked = preflight(job, folder)
    ids = [example.id for example in checked.examples if example.task == "stream"]
    recipe = checked.plan.baselines[0].recipe.model_dump(mode="json")
    expected, found = (
        worker(job, checked.plan).score(recipe, ids),
        worker(job, checked.plan, engine="vllm").score(recipe, ids),
    )
    assert found["metric"] == pytest.approx(expected["metric"], rel=0.02)
    assert stood_in


def test_weights_are_sent_once_for_all_rounds_of_a_recipe_and_again_after_a_failure(
    job: JobFile, folder: Path, stood_in: list[str]
) -> None:
    checked = preflight(job, folder)
    ids = [example.id for example in checked.examples if example.task == "pick"][:4]
    recipe = checked.plan.baselines[-1].recipe
    group = next(iter(recipe.coefficients))
    broken = recipe.model_copy(update={"coefficients": {**recipe.coefficients, group: (1e39, 1e39)}})
    guest = worker(job, checked.plan, engine="vllm")
    first = guest.score(recipe.model_dump(mode="json"), ids)
    again = guest.score(recipe.model_dump(mode="json"), ids)
    assert stood_in.count("reload_weights") == 1
    assert "must be finite" in guest.score(broken.model_dump(mode="json"), ids)["error"]
    assert stood_in.count("reload_weights") == 1  # a merge that failed never reaches the engine
    after = guest.score(recipe.model_dump(mode="json"), ids)
    assert stood_in.count("reload_weights") == 2
    assert first["loglikelihood"] == again["loglikelihood"] == after["loglikelihood"]


def test_every_answer_is_the_torch_engines(folder: Path, stood_in: list[str]) -> None:
    guest = in_vllm(folder).scoring_engine(TOKENIZER, room=1 << 20)
    ours = LanguageModel(AutoModelForCausalLM.from_pretrained(folder / "base").eval(), TOKENIZER, guest.room)
    heard: list[int] = []
    meter, questions, prompts = Meter(), likelihood_questions(), text_questions()
    for found, expected in zip(
        guest.loglikelihoods(questions, meter, heard.append), ours.loglikelihoods(questions), strict=True
    ):
        assert found.loglikelihood == pytest.approx(expected.loglikelihood, abs=1e-4)
        assert found.greedy == expected.greedy
    assert guest.generate(prompts, meter, heard.append) == ours.generate(prompts)
    assert sum(heard) == len(questions) + len(prompts)
    assert guest.end_tokens() == ours.end_tokens()
    assert guest.loglikelihoods([]) == guest.generate([]) == []
    assert meter.tokens["forward"] > 0
    assert meter.tokens["generation"] > 0
    assert not stood_in


def test_a_shorter_window_of_vllms_is_the_one_that_counts(folder: Path, stood_in: list[str]) -> None:
    assert in_vllm(folder, max_model_len=64).scoring_engine(TOKENIZER, room=128).room == 62
    assert in_vllm(folder).scoring_engine(TOKENIZER, room=50).room == 50
    assert not stood_in


def test_an_engine_that_keeps_its_cache_is_not_trusted(folder: Path, stood_in: list[str], monkeypatch: Any) -> None:
    model = in_vllm(folder)
    monkeypatch.setattr(model._llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(RuntimeError, match="must forget what it cached"):
        model.reload(folder / "north")
    assert stood_in == ["reload_weights"]


def test_tensors_cannot_be_asked_of_the_engine(folder: Path, stood_in: list[str]) -> None:
    model: nn.Module = in_vllm(folder)
    with pytest.raises(NotImplementedError, match="gives log-likelihoods and texts and no tensors"):
        model(torch.tensor([[1, 2]]))
    assert not stood_in
