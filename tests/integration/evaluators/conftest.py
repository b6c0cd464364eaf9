"""Fixtures of the lm-eval tests: what they score, and with which tasks."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest
import torch
from small_tasks import (
    CHOICE,
    LETTER,
    Make,
    character_tokenizer,
    choice_rows,
    letter_rows,
    small_llama,
    write_task,
)
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.harness import HarnessEvaluator
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.shares import Splits


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes ten seconds or more")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return character_tokenizer(chat=True)


@pytest.fixture
def model() -> LlamaForCausalLM:
    return small_llama(1)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tasks most tests use."""
    folder = tmp_path_factory.mktemp("tasks")
    write_task(folder, "pick", {"test": choice_rows(1, 60)}, **CHOICE)
    write_task(folder, "letter", {"validation": letter_rows(2, 40), "test": letter_rows(3, 30)}, **LETTER)
    shots = {"train": letter_rows(4, 20), "test": letter_rows(5, 40)}
    write_task(folder, "letter_shots", shots, **LETTER, num_fewshot=2)
    shown = {"train": choice_rows(6, 20), "test": choice_rows(7, 40)}
    write_task(folder, "pick_shots", shown, **CHOICE, num_fewshot=3, description="Choose.\n")
    write_task(
        folder,
        "last",
        {"test": letter_rows(8, 40)},
        output_type="loglikelihood",
        doc_to_text="{{word}} =",
        doc_to_target=" {{letter}}",
        metric_list=[{"metric": "perplexity"}, {"metric": "acc"}],
    )
    return folder


@pytest.fixture
def make(tasks: Path, tokenizer: PreTrainedTokenizerFast) -> Make:
    """An evaluator of some of the folder's tasks."""

    def evaluator(*names: Any, folder: Path = tasks, chat: bool = False, **options: Any) -> HarnessEvaluator:
        allow_code, splits = options.pop("allow_code", False), options.pop("splits", Splits())
        spec = LmEvalSpec(tasks=names, include_path=str(folder), chat_template=chat, batch_tokens=512, **options)
        return HarnessEvaluator(spec, splits, tokenizer, allow_code=allow_code)

    return evaluator
