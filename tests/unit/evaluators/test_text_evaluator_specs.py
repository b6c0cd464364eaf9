"""What a job file may say about perplexity, and about what to forget and what to keep."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evaluators.bounds import Bound
from evaluators.evaluator_spec import EvaluatorSpec
from evaluators.forget_retain import ForgetRetainSpec
from evaluators.perplexity import PerplexitySpec

PERPLEXITY: dict[str, Any] = {"name": "texts", "data": "texts.txt"}
FORGET: dict[str, Any] = {"name": "facts", "forget": "forget.jsonl", "retain": "retain.jsonl"}


@pytest.mark.parametrize(
    "spec",
    [
        PerplexitySpec.model_validate(PERPLEXITY),
        PerplexitySpec.model_validate(
            {
                "name": "texts",
                "data": {"file": "texts.txt", "unit": "paragraph"},
                "metric": "token_perplexity",
                "limit": {"search": 10},
                "bound": {"at_most": 0.1, "of": "base"},
                "batch_tokens": 64,
            }
        ),
        ForgetRetainSpec.model_validate(FORGET),
        ForgetRetainSpec.model_validate(
            {
                "name": "facts",
                "forget": {"dataset": "org/facts", "split": "train"},
                "retain": "retain.csv",
                "prompt": "question",
                "metric": "exact",
                "separator": "",
                "forgetting": {"bound": {"at_most": 0.05}},
                "retaining": {"objective": "kept", "weight": 3},
            }
        ),
    ],
)
def test_a_spec_comes_back_from_json_as_it_was(spec: EvaluatorSpec) -> None:
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec


def test_paths_become_absolute_and_hub_ids_stay(tmp_path: Path) -> None:
    def place(path: str) -> str:
        return str(tmp_path / path)

    located = PerplexitySpec.model_validate(PERPLEXITY).located(place)
    assert located.data.file == str(tmp_path / "texts.txt")
    hub = ForgetRetainSpec.model_validate({**FORGET, "retain": {"dataset": "org/facts"}}).located(place)
    assert hub.forget.file == str(tmp_path / "forget.jsonl")
    assert hub.retain.dataset == "org/facts"


def test_what_is_to_be_kept_has_a_bound_unless_the_file_says_something_else() -> None:
    bound = Bound(at_least=-0.02, of="base")
    for said in ({}, {"retaining": {}}, {"retaining": {"weight": 2}}):
        forgetting, retaining = ForgetRetainSpec.model_validate({**FORGET, **said}).counted()
        assert (forgetting.objective, forgetting.bound) == ("score", None)
        assert (retaining.objective, retaining.bound) == (None, bound)
    both = {"bound": {"at_least": 0.9}, "objective": "kept"}
    _, retaining = ForgetRetainSpec.model_validate({**FORGET, "retaining": both}).counted()
    assert (retaining.objective, retaining.bound) == ("kept", Bound(at_least=0.9))
    _, retaining = ForgetRetainSpec.model_validate({**FORGET, "retaining": {"objective": "score"}}).counted()
    assert (retaining.objective, retaining.bound) == ("score", None)


@pytest.mark.parametrize(
    ("spec", "said", "named"),
    [
        (PerplexitySpec, {**PERPLEXITY, "metric": "ppl"}, "bits_per_byte"),
        (PerplexitySpec, {**PERPLEXITY, "feild": "body"}, "feild"),
        (PerplexitySpec, {**PERPLEXITY, "batch_tokens": 0}, "batch_tokens"),
        (PerplexitySpec, {"name": "texts"}, "data"),
        (ForgetRetainSpec, {"name": "facts", "forget": "forget.jsonl"}, "retain"),
        (ForgetRetainSpec, {**FORGET, "metric": "rouge"}, "answer_probability"),
        (ForgetRetainSpec, {**FORGET, "forgetting": {"direction": "maximize"}}, "only be minimize here"),
        (ForgetRetainSpec, {**FORGET, "retaining": {"direction": "minimize"}}, "only be maximize here"),
        (ForgetRetainSpec, {**FORGET, "forgetting": {"objectiv": "a"}}, "objectiv"),
    ],
)
def test_a_mistake_is_refused_by_name(spec: type[EvaluatorSpec], said: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        spec.model_validate(said)


def test_the_specs_load_without_torch() -> None:
    code = (
        "import sys, evaluators.perplexity, evaluators.forget_retain\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
