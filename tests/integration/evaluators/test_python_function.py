"""A user's own function scores the live model, one number for each document; where it fails, its line is named."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from evaluators.meter import Meter
from evaluators.protocol import EvaluatorError, Outcome, ScoringError, Split
from evaluators.python_function import PythonFunction, PythonFunctionSpec
from evaluators.setting import Setting, plain_setting
from evaluators.shares import Splits
from evaluators.spec import Evaluate
from evaluators.splits import content_hash

DOCUMENTS = [{"x": number / 10, "y": number / 5} for number in range(40)]
Make = Callable[..., PythonFunction]

SQUARED_ERROR = """
import torch

def error(model, documents):
    x = torch.tensor([[document["x"]] for document in documents])
    y = torch.tensor([document["y"] for document in documents])
    return (model(x)[:, 0] - y) ** 2
"""


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """The evaluator of a file with this code, over `DOCUMENTS`."""
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCUMENTS)))

    def evaluator(code: str, function: str = "error", setting: Setting | None = None, **options: Any) -> PythonFunction:
        file = tmp_path / "own.py"
        file.write_text(code)
        spec = PythonFunctionSpec(name="fit", function=f"{file}:{function}", data={"file": str(data)}, **options)  # type: ignore[arg-type]
        opened = spec.open(setting or plain_setting(Splits(), None))
        assert isinstance(opened, PythonFunction)
        return opened

    return evaluator


def ids_of(evaluator: PythonFunction, split: Split = "search") -> list[str]:
    return [example.id for example in evaluator.examples() if example.split == split]


def answering(answer: str) -> str:
    """A function that returns this, whatever it is asked."""
    return f"import torch, numpy\n\ndef error(model, documents):\n    return {answer}\n"


def metrics(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.metric for outcome in outcomes]


def refusal(evaluator: PythonFunction, model: nn.Module) -> str:
    with pytest.raises(ScoringError) as caught:
        evaluator.score(model, ids_of(evaluator))
    return str(caught.value)


# ---- scores


def test_every_document_gets_the_number_the_function_gives_it(make: Make, model: nn.Module) -> None:
    evaluator = make(SQUARED_ERROR, higher_is_better=False)
    (task,) = evaluator.tasks()
    assert (task.name, task.metric, task.higher_is_better) == ("fit", "error", False)
    ids = ids_of(evaluator)
    outcomes = evaluator.score(model, ids[::-1])
    assert [outcome.id for outcome in outcomes] == ids[::-1]
    model.eval()
    with torch.no_grad():
        by_hand = {f"fit:{content_hash(one)}": (model(torch.tensor([[one["x"]]])) - one["y"]) ** 2 for one in DOCUMENTS}
    assert metrics(outcomes) == pytest.approx([by_hand[name].item() for name in ids[::-1]], rel=1e-5)


def test_a_score_does_not_depend_on_the_batch_or_on_what_else_is_asked(make: Make, model: nn.Module) -> None:
    whole, cut = make(SQUARED_ERROR), make(SQUARED_ERROR, batch=3)
    ids = ids_of(whole)
    expected = metrics(whole.score(model, ids))
    assert metrics(cut.score(model, ids)) == pytest.approx(expected, rel=1e-5)
    assert metrics(whole.score(model, ids[3:5])) == pytest.approx(expected[3:5], rel=1e-5)
    assert whole.score(model, []) == []


@pytest.mark.parametrize(
    "answer",
    [
        "[0.5 for _ in documents]",
        "tuple(True for _ in documents)",
        "numpy.full(len(documents), 0.5, dtype=numpy.float16)",
        "torch.full((len(documents),), 0.5, dtype=torch.bfloat16)",
        "[torch.tensor(0.5) for _ in documents]",
        "[numpy.float32(0.5) for _ in documents]",
        "[{'metric': 0.5} for _ in documents]",
    ],
)
def test_numbers_may_come_in_any_usual_form(make: Make, model: nn.Module, answer: str) -> None:
    evaluator = make(answering(answer))
    outcomes = evaluator.score(model, ids_of(evaluator))
    assert {(outcome.metric, outcome.smooth, outcome.loglikelihood) for outcome in outcomes} <= {
        (0.5, None, None),
        (1.0, None, None),
    }


def test_a_mapping_can_carry_the_smooth_score_and_the_log_likelihood(make: Make, model: nn.Module) -> None:
    evaluator = make(answering("[{'metric': 1, 'smooth': 0.25, 'loglikelihood': -1.5} for _ in documents]"))
    (first, *_) = evaluator.score(model, ids_of(evaluator))
    assert (first.metric, first.smooth, first.loglikelihood) == (1.0, 0.25, -1.5)


def test_options_device_and_tokenizer_are_given_where_they_are_named(make: Make, model: nn.Module) -> None:
    code = """
def error(model, documents, tokenizer, device, factor, words=()):
    return [factor * len(words) + len(tokenizer) if device.type == "cpu" else -1 for _ in documents]
"""
    setting = plain_setting(Splits(), "four")
    evaluator = make(code, setting=setting, options={"factor": 10, "words": ["a", "b"]})
    assert metrics(evaluator.score(model, ids_of(evaluator)))[0] == 24.0


def test_no_tokenizer_is_opened_for_a_function_that_does_not_ask(make: Make, model: nn.Module) -> None:
    def missing() -> Any:
        raise AssertionError("this model has none")

    evaluator = make(SQUARED_ERROR, setting=Setting(Splits(), missing))
    assert evaluator.score(model, ids_of(evaluator))


def test_the_model_is_in_eval_mode_without_gradients_and_then_as_it_was(make: Make, model: nn.Module) -> None:
    code = """
import torch

def error(model, documents):
    assert not model.training and not torch.is_grad_enabled()
    model.train()
    return [0.0 for _ in documents]
"""
    evaluator = make(code)
    model[0].eval()  # type: ignore[operator, index]
    evaluator.score(model, ids_of(evaluator))
    assert model.training
    assert [module.training for module in model.children()] == [False, True, True]


def test_documents_are_the_functions_own_to_change(make: Make, model: nn.Module) -> None:
    evaluator = make("def error(model, documents):\n    return [document.pop('x') for document in documents]\n")
    ids = ids_of(evaluator)
    assert evaluator.score(model, ids) == evaluator.score(model, ids)


def test_the_calls_time_counts_as_the_models(make: Make, model: nn.Module) -> None:
    evaluator, meter = make(SQUARED_ERROR), Meter()
    evaluator.score(model, ids_of(evaluator), meter)
    assert 0 < meter.model_seconds <= meter.seconds["forward"]


# ---- what a trial fails with


def test_what_the_function_raises_is_told_with_its_line(make: Make, model: nn.Module) -> None:
    code = """
def helper(document):
    return document["z"]

def error(model, documents):
    return [helper(document) for document in documents]
"""
    evaluator = make(code)
    message = refusal(evaluator, model)
    assert """KeyError: 'z' (own.py, line 3: return document["z"]).""" in message
    assert f"example `{ids_of(evaluator)[0]}` and {len(ids_of(evaluator)) - 1} more" in message


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("[0.5]", "one score for each of the 26 documents it is given, in their order, but returned 1 scores"),
        ("None", "but returned NoneType"),
        ("0.5", "but returned float"),
        ("torch.zeros(len(documents), 1)", "but returned Tensor"),
        ("{'metric': 0.5}", "but returned dict"),
        ("['good' for _ in documents]", "a number as `metric`, but gave 'good'"),
        ("[1j for _ in documents]", "a number as `metric`"),
        ("[float('nan') for _ in documents]", "a finite `metric`, but gave nan"),
        ("[{'metrics': 1.0} for _ in documents]", "`smooth` and `loglikelihood`, but gave ['metrics']"),
        ("[{'metric': 1, 'smooth': 1.5} for _ in documents]", "a `smooth` score between 0 and 1, but gave 1.5"),
        ("[{'metric': 1, 'loglikelihood': -float('inf')} for _ in documents]", "a finite `loglikelihood`"),
    ],
)
def test_an_answer_that_is_no_score_fails_the_trial(make: Make, model: nn.Module, answer: str, said: str) -> None:
    message = refusal(make(answering(answer)), model)
    assert said in message
    assert "own.py:error" in message


def test_a_search_by_smooth_scores_needs_them_from_every_document(make: Make, model: nn.Module) -> None:
    setting = plain_setting(Splits(), None, smooth=True)
    assert "because `search.signal` is smooth" in refusal(
        make(answering("[1 for _ in documents]"), setting=setting), model
    )


@pytest.mark.parametrize(
    "change",
    [
        "model[0].weight.add_(1)",
        "model[0].weight.data.mul_(1.5)",
        "model.half()",
        "model[0].bias.data = torch.zeros(4)",
    ],
)
def test_a_function_that_changes_the_weights_is_never_believed_again(make: Make, model: nn.Module, change: str) -> None:
    code = f"""
import torch

def error(model, documents):
    if len(documents) == 1:
        {change}
        raise ValueError
    return [0.0 for _ in documents]
"""
    evaluator = make(code)
    with pytest.raises(ScoringError, match="ValueError"):
        evaluator.score(model, ids_of(evaluator)[:1])
    assert "must leave the model's weights as they are, but changed `0." in refusal(evaluator, model)


def test_weights_changed_in_passing_fail_the_very_trial(make: Make, model: nn.Module) -> None:
    evaluator = make(answering("[model[0].weight.mul_(0.5).sum() for _ in documents]"))
    assert "must leave the model's weights as they are, but changed `0.weight`" in refusal(evaluator, model)


def test_a_lost_device_is_the_workers_fault_and_not_the_merges(make: Make, model: nn.Module) -> None:
    evaluator = make("import torch\n\ndef error(model, documents):\n    raise torch.AcceleratorError('gone')\n")
    with pytest.raises(torch.AcceleratorError):
        evaluator.score(model, ids_of(evaluator))


# ---- what is refused before the first trial


@pytest.mark.parametrize(
    ("code", "options", "said"),
    [
        ("def error(model, documents): ...", {"options": {"nois": 1}}, "unexpected keyword argument 'nois'"),
        ("def error(model, documents, noise): ...", {}, "missing a required argument: 'noise'"),
        ("def error(model): ...", {}, "too many positional arguments"),
        ("def error(model, documents, device): ...", {"options": {"device": "cuda"}}, "so they cannot be `options`"),
        ("def score(model, documents): ...", {}, "there is no function `error`"),
        ("import nowhere_to_be_found", {}, "No module named 'nowhere_to_be_found' (own.py, line 1:"),
        ("import sys; sys.exit(3)", {}, "cannot be imported: SystemExit"),
        ("def error(model documents): ...", {}, "cannot be imported: SyntaxError"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_at_submit(
    make: Make, code: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(EvaluatorError) as caught:
        make(code, **options)
    assert said in str(caught.value)


def test_options_may_be_taken_as_they_come(make: Make, model: nn.Module) -> None:
    evaluator = make(
        "def error(model, documents, **options):\n    return [options['a']] * len(documents)\n", options={"a": 3}
    )
    assert metrics(evaluator.score(model, ids_of(evaluator)))[0] == 3.0


def test_a_file_can_import_what_stands_beside_it(make: Make, model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "beside_own_file.py").write_text("ANSWER = 7\n")
    code = "from beside_own_file import ANSWER\n\ndef error(model, documents):\n    return [ANSWER] * len(documents)\n"
    evaluator = make(code)
    assert metrics(evaluator.score(model, ids_of(evaluator)))[0] == 7.0


def test_paths_are_relative_to_the_job_file_and_the_code_is_announced(tmp_path: Path) -> None:
    written = {"evaluator": "python", "name": "fit", "function": "own.py:error", "data": "data.jsonl"}
    (spec,) = TypeAdapter(Evaluate).validate_python([written])
    located = spec.located(lambda path: str(tmp_path / path))
    assert isinstance(located, PythonFunctionSpec)
    assert located.data.file == str(tmp_path / "data.jsonl")
    assert located.runs() == [located.function] == [f"{tmp_path / 'own.py'}:error"]
    module = spec.model_copy(update={"function": "package.module:error"})
    assert module.located(lambda path: str(tmp_path / path)).runs() == ["package.module:error"]


@pytest.mark.parametrize("function", ["own.py", "own.py:", "own.py:two words", ":error"])
def test_a_reference_must_name_a_file_and_a_function(function: str) -> None:
    with pytest.raises(ValidationError):
        PythonFunctionSpec(name="fit", function=function, data={"file": "data.jsonl"})  # type: ignore[arg-type]


def test_a_function_that_leaves_the_process_fails_the_trial_with_its_line(make: Make, model: nn.Module) -> None:
    message = refusal(make("def error(model, documents):\n    raise SystemExit('enough')\n"), model)
    assert "SystemExit: enough (own.py, line 2" in message
