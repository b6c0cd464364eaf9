"""Evaluators that cannot work are refused at submit, with a word on what to do, whichever they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optimizer.errors import InputError
from optimizer.evaluate import evaluate_model
from optimizer.preflight import preflight
from optimizer.spec import read_job_file
from tests.integration.evaluators.small_tasks import LETTER, letter_rows, write_task
from tests.integration.small_job import WEIGHTS, Shop, make_shop, write_job

PROMPTS = [{"prompt": f"say {number}", "answer": f"{number}"} for number in range(40)]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    torch.set_num_threads(1)
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    (tmp_path / "own.py").write_text("def half(model, documents):\n    return [0.5 for _ in documents]\n")


def refused(shop: Shop, folder: Path, changes: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        preflight(read_job_file(write_job(shop, folder, changes)), folder / "jobs")
    return str(caught.value)


CHAT = {"evaluator": "generation", "name": "chat", "data": "prompts.jsonl", "measures": ["truncated"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"evaluate": {**CHAT, "max_tokens": 512}},
            ["may generate 512 tokens, but the model's whole window has 512", "smaller `max_tokens`"],
            id="answers longer than the window",
        ),
        pytest.param(
            {"evaluate": {**CHAT, "data": "none.jsonl"}},
            ["none.jsonl: `data` must be a file, but there is none"],
            id="no data file",
        ),
        pytest.param(
            {"evaluate": {**CHAT, "field": "question"}},
            ["`chat`: every document must have text in its field `question`", "its fields are prompt, answer"],
            id="no such field",
        ),
        pytest.param(
            {"evaluate": [CHAT, CHAT]}, ["`chat.truncated` is one of two evaluators"], id="two tasks of one name"
        ),
        pytest.param(
            {"evaluate": CHAT, "models.load": "sequence-classification"},
            ["scores models of the kind causal-lm, but `models.load` is sequence-classification"],
            id="another kind of model",
        ),
        pytest.param(
            {"evaluate": CHAT, "models.load": "causal"}, ["must be one of causal-lm"], id="no such kind of model"
        ),
        pytest.param(
            {"evaluate": {**CHAT, "measures": [{"measure": "truncated", "bound": {"at_most": 0.1}}]}},
            ["at least one task must count towards an `objective`, but all are only bounded"],
            id="nothing to search for",
        ),
        pytest.param(
            {
                "evaluate": {
                    **CHAT,
                    "measures": [
                        {"measure": "truncated", "objective": "score", "bound": {"at_most": 1, "of": "nroth"}}
                    ],
                }
            },
            ["`bound.of` must name a model of the job, one of base, north, south, west, but is 'nroth'"],
            id="bound from no model",
        ),
        pytest.param(
            {"evaluate": {"evaluator": "python", "name": "own", "function": "own.py:haf", "data": "prompts.jsonl"}},
            ["there is no function `haf`", "it has: half"],
            id="no such function",
        ),
        pytest.param(
            {"evaluate": CHAT, "workers.engine": "vllm", "workers.gpus": 1},
            ["pip install 'mergeopt[vllm]'"],
            id="vLLM is not installed",
        ),
        pytest.param({"evaluate": CHAT, "models.unmerged": ["haed"]}, ["haed"], id="no such module"),
    ],
)
def test_an_evaluator_that_cannot_work_is_refused(
    shop: Shop, tmp_path: Path, changes: dict[str, Any], said: list[str]
) -> None:
    told = refused(shop, tmp_path, changes)
    for words in said:
        assert words in told


def test_a_task_that_may_generate_more_than_the_window_holds_is_refused(shop: Shop, tmp_path: Path) -> None:
    letter = {**LETTER, "generation_kwargs": {"until": ["\n"], "max_gen_toks": 600}}
    write_task(tmp_path, "long", {"validation": letter_rows(2, 40), "test": letter_rows(3, 30)}, **letter)
    told = refused(shop, tmp_path, {"evaluate": {"tasks": ["long"], "include_path": str(tmp_path)}})
    assert "task `long` may generate 600 tokens, but the model's whole window has 512" in told


def test_documents_that_one_task_tests_on_and_another_searches_on_are_refused(shop: Shop, tmp_path: Path) -> None:
    rows = {"validation": letter_rows(2, 40), "test": letter_rows(3, 40)}
    write_task(tmp_path, "whole", rows, **LETTER)
    write_task(tmp_path, "only_test", {"test": rows["test"]}, **LETTER)
    told = refused(shop, tmp_path, {"evaluate": {"tasks": ["whole", "only_test"], "include_path": str(tmp_path)}})
    assert "a test document must not be searched on" in told
    assert "in the test split of `whole`" in told


def test_a_list_of_evaluators_is_taken(shop: Shop, tmp_path: Path) -> None:
    evaluate = [
        {"include_path": str(shop.tasks), "tasks": ["letter"]},
        {**CHAT, "measures": [{"measure": "truncated", "bound": {"at_most": 0.5, "of": "base"}}]},
        {"evaluator": "python", "name": "own", "function": "own.py:half", "data": "prompts.jsonl"},
    ]
    checked = preflight(read_job_file(write_job(shop, tmp_path, {"evaluate": evaluate})), tmp_path / "jobs")
    tasks = checked.plan.tasks
    assert [(task.name, task.objective) for task in tasks] == [
        ("letter", "score"),
        ("chat.truncated", None),
        ("own", "score"),
    ]
    assert f"code of yours runs here and on the workers: {tmp_path / 'own.py'}:half." in checked.notes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search.batch": 4}, "the engine 'random' compares all its trials with each other"),
        ({"search.engine": "cma-es", "search.batch": 20}, "a batch must be at most half of the"),
        (
            {"search.engine": "cma-es", "search.batch": 10, "search.budget": {"examples": 100}},
            "trials of 10 examples and the engine's answer on all",
        ),
    ],
)
def test_a_batch_that_cannot_be_had_is_refused(shop: Shop, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refused(shop, tmp_path, changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate": {**CHAT, "max_tokens": 512}}, "the model's whole window has 512"),
        ({"models.load": "sequence-classification"}, "scores models of the kind causal-lm"),
    ],
)
def test_evaluate_refuses_what_a_job_would_refuse(
    shop: Shop, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        evaluate_model(str(shop.models / "north"), write_job(shop, tmp_path, changes), "test")


def test_evaluate_refuses_a_folder_without_all_weights_of_the_model(shop: Shop, tmp_path: Path) -> None:
    body = tmp_path / "body"
    shutil.copytree(shop.models / "north", body)
    weights = load_file(body / WEIGHTS)
    save_file({name: one for name, one in weights.items() if "lm_head" not in name}, body / WEIGHTS)
    with pytest.raises(InputError, match="was left with 1 tensors"):
        evaluate_model(str(body), write_job(shop, tmp_path), "test")
