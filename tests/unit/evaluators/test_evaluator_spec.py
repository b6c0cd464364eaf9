"""What a job file may say about evaluation."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from evaluators.lm_eval_tasks import LmEvalSpec, LmEvalTask
from evaluators.shares import Splits


def test_a_bare_name_and_a_single_folder_are_enough() -> None:
    spec = LmEvalSpec.model_validate({"tasks": ["gsm8k", {"task": "arc_easy", "weight": 2}], "include_path": "t"})
    assert spec.tasks == (LmEvalTask(task="gsm8k"), LmEvalTask(task="arc_easy", weight=2.0))
    assert spec.include_path == ("t",)
    assert LmEvalSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"task": "a", "wieght": 2}]}, "wieght"),
        ({"tasks": [{"task": "a", "weight": 0}]}, "weight"),
        ({"tasks": [{"task": "a", "weight": float("inf")}]}, "weight"),
        ({"tasks": [{"task": "a", "limit": 0}]}, "limit"),
        ({"tasks": [{"task": "a", "fewshot": -1}]}, "fewshot"),
        ({"tasks": ["a"], "batch_tokens": 0}, "batch_tokens"),
        ({"tasks": ["a"], "batchsize": 8}, "batchsize"),
        ({"tasks": ["a", {"task": "b"}, {"task": "a"}]}, "`a` is listed 2 times"),
    ],
)
def test_a_mistake_is_refused_by_name(said: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        LmEvalSpec.model_validate(said)


def test_every_split_has_a_share() -> None:
    with pytest.raises(ValidationError, match="select"):
        Splits(select=0)


def test_specs_aggregates_and_splits_load_without_torch_or_lm_eval() -> None:
    code = (
        "import sys, evaluators.spec, evaluators.splits, evaluators.aggregate, evaluators.protocol\n"
        "print([m for m in ('torch', 'lm_eval', 'transformers', 'datasets', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
