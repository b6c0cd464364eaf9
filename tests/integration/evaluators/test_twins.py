"""Differentiable twins: losses that agree with the scores, gradients that agree with small steps of the weights."""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_classifiers import classifier, setting_for, written
from small_classifiers import words as class_words
from small_tasks import CHOICE, MEAN, Make, choice_rows, letter_rows, small_llama, words, write_task
from test_equal_to_lm_eval import MODELS
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.harness.losses import prompt_of
from evaluators.lm import differentiable
from evaluators.lm.forward import Forward
from evaluators.lm_eval_tasks import LmEvalTask
from evaluators.meter import Meter
from evaluators.perplexity import PerplexitySpec
from evaluators.protocol import Evaluator, EvaluatorError, Outcome, ScoringError
from evaluators.python_function import PythonFunctionSpec
from evaluators.setting import plain_setting
from evaluators.several import Several
from evaluators.shares import Splits
from evaluators.text_classification import TextClassificationSpec
from evaluators.twins import Differentiable, differentiate, twins_of

CHOSEN: tuple[Any, ...] = (
    {"task": "pick", "metric": "acc_norm"},
    {"task": "pick_shots", "metric": "acc"},
    "letter",
    "letter_shots",
    "last",
    "scroll",
)


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def folder(tasks: Path) -> Path:
    """The usual tasks, one of texts longer than the window, and one that compares answers with what they are alone."""
    texts = {"test": [{"text": " ".join(row["word"] for row in letter_rows(seed, 120))} for seed in range(24)]}
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    write_task(tasks, "scroll", texts, **rolling, metric_list=[{"metric": "bits_per_byte"}])
    mutual = {**CHOICE, "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_mutual_info", **MEAN}]}
    write_task(tasks, "mutual", {"test": choice_rows(11, 40)}, **mutual)
    return tasks


def some(evaluator: Evaluator, each: int = 4) -> list[str]:
    """A few ids of every task, in an order of their own."""
    ids = [
        example.id
        for task in evaluator.tasks()
        for example in [one for one in evaluator.examples() if one.task == task.name][:each]
    ]
    random.Random(5).shuffle(ids)
    return ids


def losses_of(evaluator: Any, outcomes: Sequence[Outcome]) -> list[float]:
    """What the losses must be: minus the logarithm of the smooth score, per token where that is a whole answer's."""
    found = []
    for outcome in outcomes:
        item = evaluator._items[outcome.id]
        assert outcome.smooth is not None
        assert outcome.loglikelihood is not None
        tokens = len(item.encoded[0][2]) if item.encoded else 1
        if item.asked.kind == "generate_until":
            likelihood = math.exp(outcome.loglikelihood / tokens * min(3, tokens))
            found.append(-0.5 * math.log(likelihood + 0.1))
        elif item.asked.kind == "loglikelihood":
            found.append(-outcome.loglikelihood / len(item.encoded[0][2]))
        else:
            found.append(-math.log(outcome.smooth))
    return found


def gradients(
    evaluator: Any, model: nn.Module, ids: Sequence[str], scales: Mapping[str, float]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    losses = differentiate(evaluator, model, ids, scales)
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    return losses, found


def weighted(losses: Sequence[float], ids: Sequence[str], scales: Mapping[str, float]) -> float:
    tasks = [name.rpartition(":")[0] for name in ids]
    return math.fsum(scales[task] * loss / tasks.count(task) for loss, task in zip(losses, tasks, strict=True))


def check_slope(model: nn.Module, found: Mapping[str, torch.Tensor], loss: Callable[[], float], step: float) -> None:
    """The gradient against central differences, up or down each parameter's own gradient as a coin says."""
    rng = random.Random(1)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def moved(ways: Mapping[str, torch.Tensor], by: float) -> float:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name] + by * ways[name] if name in ways else weights[name])
        return loss()

    for _ in range(3):
        ways = {name: rng.choice((-1, 1)) / max(1e-9, float(one.norm())) * one for name, one in found.items()}
        expected = math.fsum(float((found[name] * way).sum()) for name, way in ways.items())
        steepest = math.fsum(float(one.norm()) for one in found.values())
        measured = (moved(ways, step) - moved(ways, -step)) / (2 * step)
        assert measured == pytest.approx(expected, abs=5e-3 * steepest, rel=0)
    moved({}, 0)


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_those_of_the_scores_and_gradients_those_of_small_steps(name: str, make: Make, folder: Path) -> None:
    torch.manual_seed(3)
    model = MODELS[name]().double().eval()
    with torch.no_grad():  # they are drawn so wide that a small step is no longer straight
        for parameter in model.parameters():
            parameter.mul_(0.5)
    evaluator = make(*CHOSEN, folder=folder, gold_likelihood=True)
    ids = some(evaluator)
    scales = {task.name: 0.5 + number for number, task in enumerate(evaluator.tasks())}
    losses, found = gradients(evaluator, model, ids, scales)
    assert losses == pytest.approx(losses_of(evaluator, evaluator.score(model, ids)), rel=1e-5, abs=1e-5)
    assert set(found) == {name for name, _ in model.named_parameters()}

    def loss() -> float:
        return weighted(losses_of(evaluator, evaluator.score(model, ids)), ids, scales)

    check_slope(model, found, loss, 1e-3)


def test_choices_compared_with_what_they_are_alone_have_a_twin_too(
    make: Make, folder: Path, model: LlamaForCausalLM
) -> None:
    evaluator = make({"task": "mutual", "metric": "acc_mutual_info"}, folder=folder)
    ids = some(evaluator, 12)
    losses, _ = gradients(evaluator, model, ids, {"mutual": 1.0})
    outcomes = evaluator.score(model, ids)
    assert losses == pytest.approx([-math.log(one.smooth or 0) for one in outcomes], rel=1e-4)


def test_gold_answers_of_generated_tasks_need_no_setting(make: Make, folder: Path, model: LlamaForCausalLM) -> None:
    plain, asked = make("letter", folder=folder), make("letter", folder=folder, gold_likelihood=True)
    ids = some(plain)
    losses, found = gradients(plain, model, ids, {"letter": 1.0})
    others, expected = gradients(asked, model, ids, {"letter": 1.0})
    assert losses == others
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(outcome.smooth is None for outcome in plain.score(model, ids))  # scores go on as the job says


def taught_by(make: Make, folder: Path, teacher: nn.Module | None = None, key: str = "north") -> Any:
    """Three tasks, two of them with a teacher; what it says is known where the model is given."""
    evaluator = make(
        {"task": "pick", "teacher": "north"}, {"task": "letter", "teacher": "north"}, "last", folder=folder
    )
    if teacher is not None:
        ids = [name for name in some(evaluator) if not name.startswith("last:")]
        evaluator.learn(teacher, ids, key)
    return evaluator


def divergence(teacher: nn.Module, model: nn.Module, tokens: Sequence[int]) -> float:
    """KL(teacher || model) over the whole vocabulary, the mean over the places."""
    with torch.no_grad():
        p, q = (torch.log_softmax(one(torch.tensor([tokens])).logits[0].double(), -1) for one in (teacher, model))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_a_teacher_takes_the_place_of_gold_answers(make: Make, folder: Path, model: LlamaForCausalLM) -> None:
    teacher = small_llama(seed=11).double().eval()
    model.double()
    evaluator = taught_by(make, folder, teacher)
    ids, scales = some(evaluator), {"pick": 0.5, "letter": 1.5, "last": 1.0}
    losses, found = gradients(evaluator, model, ids, scales)
    for name, loss in zip(ids, losses, strict=True):
        if not name.startswith("last:"):
            tokens = list(prompt_of(evaluator._items[name], evaluator._resident(model)))
            whole = divergence(teacher, model, tokens)
            assert 0 < loss <= whole + 1e-5
            assert loss == pytest.approx(whole, rel=0.1)

    def loss_of() -> float:
        return weighted(gradients(evaluator, model, ids, scales)[0], ids, scales)

    check_slope(model, found, loss_of, 1e-3)
    own = [name for name in ids if not name.startswith("last:")]
    assert gradients(evaluator, teacher, own, scales)[0] == pytest.approx([0.0] * len(own), abs=1e-6)


def test_what_a_teacher_says_is_asked_once_for_all_processes(make: Make, folder: Path, model: LlamaForCausalLM) -> None:
    first = taught_by(make, folder, small_llama(seed=11).eval())
    ids, scales = some(first), {"pick": 0.5, "letter": 1.5, "last": 1.0}
    second = Several([taught_by(make, folder)])
    with pytest.raises(EvaluatorError, match=r"`north` says on example `.*` was never asked"):
        gradients(second, model, ids, scales)
    taught = {name for name in ids if not name.startswith("last:")}
    assert set(second.recall(model, ids, "other weights")) == taught
    assert second.recall(model, ids, "north") == []
    assert gradients(second, model, ids, scales)[0] == gradients(first, model, ids, scales)[0]


def test_how_examples_are_put_together_changes_nothing(
    make: Make, folder: Path, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = make(*CHOSEN, folder=folder)
    ids = some(evaluator)
    scales = {task.name: 1.0 for task in evaluator.tasks()}
    losses, expected = gradients(evaluator, model.double(), ids, scales)
    for tokens in (1, 60, 100_000):
        monkeypatch.setattr(differentiable, "tokens_at_once", lambda *_, tokens=tokens: tokens)
        shuffled = random.Random(tokens).sample(ids, len(ids))
        spec = {"tasks": evaluator._spec.tasks, "batch_tokens": 100_000}
        other = make(*CHOSEN, folder=folder)
        other._spec = other._spec.model_copy(update=spec)
        again, found = gradients(other, model, shuffled, scales)
        assert [again[shuffled.index(name)] for name in ids] == pytest.approx(losses, rel=1e-6)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_memory_that_runs_out_costs_time_and_no_part_of_the_gradient(
    make: Make, folder: Path, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = make(*CHOSEN, folder=folder)
    ids, scales = some(evaluator), {task.name: 1.0 for task in evaluator.tasks()}
    _, expected = gradients(evaluator, model.double(), ids, scales)
    read, refused = Forward.read, []

    def small(self: Forward, batch: Any, *rest: Any) -> Any:
        if len(batch.rows) > 1 and batch.tokens.numel() > 200:
            refused.append(batch.tokens.numel())
            raise torch.OutOfMemoryError("as if")
        return read(self, batch, *rest)

    monkeypatch.setattr(Forward, "read", small)
    _, found = gradients(evaluator, model, ids, scales)
    assert refused
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_an_example_that_comes_twice_counts_twice(make: Make, folder: Path, model: LlamaForCausalLM) -> None:
    evaluator = make("pick", folder=folder)
    one, other = some(evaluator, 2)
    model.double()
    losses, found = gradients(evaluator, model, [one, other, one], {"pick": 3.0})
    assert losses[0] == losses[2]
    _, first = gradients(evaluator, model, [one], {"pick": 2.0})
    _, second = gradients(evaluator, model, [other], {"pick": 1.0})
    for name in found:
        torch.testing.assert_close(found[name], first[name] + second[name], rtol=1e-5, atol=1e-6)


def test_modes_are_put_back_and_dropout_takes_no_part(make: Make, folder: Path, model: LlamaForCausalLM) -> None:
    evaluator, scales = make("pick", folder=folder), {"pick": 1.0}
    ids = some(evaluator)
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    _, expected = gradients(evaluator, model.eval(), ids, scales)
    _, found = gradients(evaluator, model.train(), ids, scales)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_it_cost_is_told(make: Make, folder: Path, model: LlamaForCausalLM) -> None:
    evaluator, meter = make("pick", folder=folder), Meter()
    evaluator.backward(model, some(evaluator), {"pick": 1.0}, meter)
    assert 0 < meter.model_seconds <= meter.seconds["forward"]
    assert meter.tokens["forward"] > 50


def test_weights_that_are_not_finite_name_an_example(make: Make, folder: Path, model: LlamaForCausalLM) -> None:
    evaluator = make("pick", folder=folder)
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(ScoringError, match="loss of example `pick:"):
        evaluator.backward(model, some(evaluator), {"pick": 1.0})


@pytest.mark.parametrize(
    ("scales", "said"), [({}, "must have a finite scale, but `pick` has None"), ({"pick": math.inf}, "has inf")]
)
def test_a_task_without_a_scale_is_refused(
    make: Make, folder: Path, model: LlamaForCausalLM, scales: dict[str, float], said: str
) -> None:
    evaluator = make("pick", folder=folder)
    with pytest.raises(EvaluatorError, match=said):
        evaluator.backward(model, some(evaluator), scales)


# ---- perplexity and classifiers


def texts_of(folder: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Evaluator:
    rng = random.Random(3)
    rows = [{"text": " ".join(words(rng, rng.randint(1, 7)) for _ in range(4 + 9 * number))} for number in range(24)]
    rows[0]["text"] = " ".join(words(rng, 6) for _ in range(190))  # three windows of the model
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = PerplexitySpec.model_validate({"name": "texts", "data": str(file), **options})
    return spec.open(plain_setting(Splits(), tokenizer))


def test_the_loss_of_a_text_is_minus_the_logarithm_of_its_smooth_score(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator, scales = texts_of(tmp_path, tokenizer), {"texts": 1.0}
    ids = [example.id for example in evaluator.examples()]
    model.double()

    def losses() -> list[float]:
        return [-math.log(outcome.smooth or 0) for outcome in evaluator.score(model, ids)]

    found, slopes = gradients(evaluator, model, ids, scales)
    assert found == pytest.approx(losses(), rel=1e-6)
    check_slope(model, slopes, lambda: weighted(losses(), ids, scales), 1e-3)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("padding", [0, None])
def test_the_loss_of_a_label_is_minus_the_logarithm_of_its_smooth_score(
    tmp_path: Path, kind: str, padding: int | None
) -> None:
    rng = random.Random(0)
    rows = [{"text": class_words(rng), "label": rng.randrange(3)} for _ in range(60)]
    spec = TextClassificationSpec(name="task", data=written(tmp_path, rows))  # type: ignore[arg-type]
    evaluator = spec.open(setting_for(kind))
    model = classifier(kind, 3, pad_token_id=padding).double()
    ids, scales = [example.id for example in evaluator.examples()], {"task": 2.0}

    def losses() -> list[float]:
        return [-(outcome.loglikelihood or 0) for outcome in evaluator.score(model, ids)]

    found, slopes = gradients(evaluator, model, ids, scales)
    assert found == pytest.approx(losses(), rel=1e-4, abs=1e-6)
    check_slope(model, slopes, lambda: weighted(losses(), ids, scales), 1e-3)


def test_an_experts_head_takes_part_without_a_gradient_of_its_own(tmp_path: Path) -> None:
    model, expert = classifier("bert", 2), classifier("bert", 3, seed=4)
    expert.save_pretrained(tmp_path / "expert")
    rng = random.Random(0)
    rows = [{"text": class_words(rng), "label": rng.randrange(3)} for _ in range(60)]
    spec = TextClassificationSpec(name="task", data=written(tmp_path, rows), head="expert")  # type: ignore[arg-type]
    evaluator = spec.open(setting_for("bert", tmp_path, ("expert",)))
    ids = [example.id for example in evaluator.examples()]
    losses, found = gradients(evaluator, model, ids, {"task": 1.0})
    outcomes = evaluator.score(model, ids)
    assert losses == pytest.approx([-(one.loglikelihood or 0) for one in outcomes], rel=1e-4, abs=1e-6)
    assert any("encoder" in name for name in found)
    assert not any(name.startswith(("classifier", "bert.pooler")) for name in found)


# ---- which tasks have one


def test_tasks_that_are_turned_or_point_elsewhere_say_why_they_have_no_twin(
    make: Make, folder: Path, tmp_path: Path
) -> None:
    less = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": False}
    write_task(
        tmp_path,
        "slips",
        {"test": letter_rows(5, 40)},
        output_type="generate_until",
        doc_to_text="{{word}} =",
        doc_to_target="{{letter}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 8},
        metric_list=[less],
    )
    told = make("slips", folder=tmp_path).twins()["slips"]
    assert told is not None
    assert "wants less of `exact_match`" in told
    evaluator = make("pick", "last", LmEvalTask(task="letter", direction="minimize"), folder=folder)
    found = evaluator.twins()
    assert (found["pick"], found["last"]) == (None, None)
    assert found["letter"] is not None
    assert "turned around" in found["letter"]


def test_a_task_without_a_written_answer_has_no_twin(make: Make, tmp_path: Path) -> None:
    write_task(
        tmp_path,
        "open",
        {"test": [{**row, "letter": ""} for row in letter_rows(5, 40)]},
        output_type="generate_until",
        doc_to_text="{{word}} =",
        doc_to_target="{{letter}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 8},
        metric_list=[{"metric": "exact_match", **MEAN}],
    )
    told = make("open", folder=tmp_path).twins()["open"]
    assert told is not None
    assert "empty gold answer" in told


def test_several_evaluators_answer_as_each_of_them_alone(
    make: Make, folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    (tmp_path / "own.py").write_text("def zero(model, documents, **options):\n    return [0.0] * len(documents)\n")
    data = written(tmp_path, [{"x": number} for number in range(40)])
    own = PythonFunctionSpec(name="own", function=f"{tmp_path}/own.py:zero", data=data)  # type: ignore[arg-type]
    harness, texts = make("pick", "letter", folder=folder), texts_of(tmp_path, tokenizer)
    python = own.open(plain_setting(Splits(), tokenizer))
    several = Several([harness, python, texts])
    assert isinstance(several, Differentiable)
    assert not isinstance(python, Differentiable)
    found = twins_of(several)
    assert {name: reason is None for name, reason in found.items()} == {
        "pick": True,
        "letter": True,
        "own": False,
        "texts": True,
    }
    ids = some(several)
    scales = {"pick": 1.0, "letter": 2.0, "texts": 0.5, "own": 1.0}
    with pytest.raises(EvaluatorError, match="`own` is scored in a way that has no gradient"):
        several.backward(model, ids, scales)
    with pytest.raises(EvaluatorError, match="`own` is scored in a way that has no gradient"):
        differentiate(python, model, some(python), scales)
    assert all(parameter.grad is None for parameter in model.parameters())
    ids = [name for name in ids if not name.startswith("own:")]
    losses, gradient = gradients(several, model.double(), ids, scales)
    alone = [[name for name in ids if name.startswith(("pick:", "letter:"))]]
    alone += [[name for name in ids if name.startswith("texts:")]]
    parts = [gradients(one, model, own, scales) for one, own in zip((harness, texts), alone, strict=True)]
    expected = dict(zip([*alone[0], *alone[1]], [*parts[0][0], *parts[1][0]], strict=True))
    assert losses == [expected[name] for name in ids]
    for name, value in gradient.items():
        torch.testing.assert_close(value, parts[0][1][name] + parts[1][1][name])
