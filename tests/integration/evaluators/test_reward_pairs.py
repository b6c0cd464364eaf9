"""The better of two answers gets the higher reward, as transformers rewards each of them alone."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from small_classifiers import WINDOW, classifier, setting_for, word_tokenizer, words, written

from evaluators.protocol import EvaluatorError, Outcome, ScoringError
from evaluators.reward_pairs import RewardPairsSpec
from evaluators.setting import plain_setting
from evaluators.shares import Splits

KINDS = pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])


def rows(count: int = 50, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {"prompt": words(rng, 5) + " ", "chosen": words(rng, 6), "rejected": words(rng, 6), "source": place}
        for place in range(count)
    ]


def opened(folder: Path, kind: str, data: list[dict[str, Any]], **options: Any) -> Any:
    return RewardPairsSpec(name="pairs", data=written(folder, data), **options).open(setting_for(kind))


def all_ids(evaluator: Any) -> list[str]:
    return [example.id for example in evaluator.examples()]


def documents(evaluator: Any) -> list[Any]:
    return [evaluator._dealt.documents[name] for name in all_ids(evaluator)]


def alone(model: Any, kind: str, text: str, label: int = 0, special: bool = True) -> float:
    """The reward as a user of transformers would get it."""
    inputs = word_tokenizer(kind)(text, return_tensors="pt", add_special_tokens=special)
    with torch.no_grad():
        return float(model(**inputs).logits[0, label])


def check(outcomes: list[Outcome], rewards: list[tuple[float, float]]) -> None:
    assert len({chosen > rejected for chosen, rejected in rewards}) == 2, "these pairs cannot tell right from wrong"
    for outcome, (chosen, rejected) in zip(outcomes, rewards, strict=True):
        wins = 1 / (1 + math.exp(rejected - chosen))
        assert outcome.metric == float(chosen > rejected)
        assert outcome.smooth == pytest.approx(wins, abs=1e-5)
        assert outcome.loglikelihood == pytest.approx(math.log(wins), abs=1e-5)


@KINDS
def test_every_answer_is_rewarded_as_it_is_alone(tmp_path: Path, kind: str) -> None:
    model = classifier(kind, 1)
    evaluator = opened(tmp_path, kind, rows())
    scored = [
        tuple(alone(model, kind, one["prompt"] + one[answer]) for answer in ("chosen", "rejected"))
        for one in documents(evaluator)
    ]
    check(evaluator.score(model, all_ids(evaluator)), scored)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@KINDS
def test_strings_and_lists_of_turns_give_the_conversation_the_template_writes(tmp_path: Path, kind: str) -> None:
    """A prompt and two answers, as strings, as turns that follow it, or as whole conversations, all mean the same."""
    model = classifier(kind, 1)
    strings = [{key: str(row[key]).strip() for key in ("prompt", "chosen", "rejected")} for row in rows()]
    turns = {key: [turn("assistant", row[key]) for row in strings] for key in ("chosen", "rejected")}
    asked = [turn("user", row["prompt"]) for row in strings]
    numbers = range(len(strings))
    written_so = {
        "strings": strings,
        "turns after the prompt": [{**strings[n], **{key: [turns[key][n]] for key in turns}} for n in numbers],
        "turns after turns": [{"prompt": [asked[n]], **{key: [turns[key][n]] for key in turns}} for n in numbers],
        "conversations": [{**strings[n], **{key: [asked[n], turns[key][n]] for key in turns}} for n in numbers],
    }
    scores = {}
    for name, data in written_so.items():
        evaluator = opened(tmp_path, kind, data, chat_template=name == "strings")
        scores[name] = sorted(outcome.loglikelihood for outcome in evaluator.score(model, all_ids(evaluator)))
    rewards = [
        [
            alone(model, kind, f"<user> {row['prompt']} <end><assistant> {row[key]} <end>", special=False)
            for key in turns
        ]
        for row in strings
    ]
    expected = sorted(-math.log1p(math.exp(rejected - chosen)) for chosen, rejected in rewards)
    for name, found in scores.items():
        assert found == pytest.approx(expected, abs=1e-5), name


def test_long_conversations_keep_the_answer(tmp_path: Path) -> None:
    model = classifier("llama", 1)
    rng = random.Random(3)
    start = " ".join(rng.choice(("w1", "w2", "w3")) for _ in range(3 * WINDOW))
    data = [{**row, "prompt": f"{start} {row['prompt']}"} for row in rows()]
    evaluator = opened(tmp_path, "llama", data)
    cut = [
        tuple(
            alone(model, "llama", " ".join((one["prompt"] + one[answer]).split()[-WINDOW:]))
            for answer in ("chosen", "rejected")
        )
        for one in documents(evaluator)
    ]
    check(evaluator.score(model, all_ids(evaluator)), cut)


def test_equal_rewards_count_half(tmp_path: Path) -> None:
    model = classifier("gpt2", 1)
    data = [*rows(), *({"chosen": f"w{n} w1", "rejected": f"w{n} w1"} for n in range(10))]
    evaluator = opened(tmp_path, "gpt2", data)
    ties = [one["chosen"] == one["rejected"] for one in documents(evaluator)]
    for tie, outcome in zip(ties, evaluator.score(model, all_ids(evaluator)), strict=True):
        assert (outcome.metric == 0.5) == tie
        if tie:
            assert (outcome.smooth, outcome.loglikelihood) == (0.5, -math.log(2))
    with torch.no_grad():
        model.score.weight.zero_()
    assert {outcome.metric for outcome in evaluator.score(model, all_ids(evaluator))} == {0.5}


def test_a_text_in_many_pairs_is_scored_once(tmp_path: Path) -> None:
    data = [{"chosen": "w1 w2 w3", "rejected": f"w{n} w5"} for n in range(20)]
    evaluator = opened(tmp_path, "gpt2", data)
    model = classifier("gpt2", 1)
    seen: list[int] = []
    model.register_forward_pre_hook(lambda _, __, inputs: seen.append(len(inputs["input_ids"])), with_kwargs=True)
    evaluator.score(model, all_ids(evaluator))
    seen.clear()  # the first call also tries padding out
    evaluator.score(model, all_ids(evaluator))
    assert sum(seen) == 21


def test_neither_order_nor_company_changes_a_score(tmp_path: Path) -> None:
    model = classifier("llama", 1)
    evaluator = opened(tmp_path, "llama", rows())
    together = {outcome.id: outcome.loglikelihood for outcome in evaluator.score(model, all_ids(evaluator))}
    some = random.Random(2).sample(all_ids(evaluator), 5)
    apart = opened(tmp_path, "llama", rows(), batch_tokens=1).score(model, some)
    assert [outcome.id for outcome in apart] == some
    assert [outcome.loglikelihood for outcome in apart] == pytest.approx([together[name] for name in some], abs=1e-5)
    assert evaluator.score(model, []) == []


def test_the_reward_among_several_labels_is_named(tmp_path: Path) -> None:
    model = classifier("gpt2", 3)
    model.config.label2id = {"bad": 0, "fair": 1, "good": 2}
    unnamed = opened(tmp_path, "gpt2", rows())
    with pytest.raises(EvaluatorError, match=r"the model has 3 labels \(bad, fair, good\)"):
        unnamed.check_model(model)
    wrong = opened(tmp_path, "gpt2", rows(), label="great")
    with pytest.raises(EvaluatorError, match="must be one of bad, fair, good, or a number from 0 to 2, but is 'great'"):
        wrong.check_model(model)
    for label in ("good", 2):
        evaluator = opened(tmp_path, "gpt2", rows(), label=label)
        scored = [
            tuple(alone(model, "gpt2", one["prompt"] + one[answer], label=2) for answer in ("chosen", "rejected"))
            for one in documents(evaluator)
        ]
        check(evaluator.score(model, all_ids(evaluator)), scored)


def test_rewards_that_are_not_finite_fail_with_the_example_named(tmp_path: Path) -> None:
    model = classifier("gpt2", 1)
    evaluator = opened(tmp_path, "gpt2", rows())
    with torch.no_grad():
        model.score.weight.fill_(torch.inf)
    with pytest.raises(ScoringError, match="rewards of example `pairs:"):
        evaluator.score(model, all_ids(evaluator))


def test_large_differences_stay_finite(tmp_path: Path) -> None:
    model = classifier("gpt2", 1)
    evaluator = opened(tmp_path, "gpt2", rows())
    with torch.no_grad():
        model.score.weight.mul_(1e6)
    for outcome in evaluator.score(model, all_ids(evaluator)):
        assert math.isfinite(outcome.loglikelihood)
        assert 0 <= outcome.smooth <= 1


def test_data_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    for wrong, said in (
        ({"chosen": "w1"}, "in its field `rejected`, but one has None"),
        ({"chosen": "w1", "rejected": ""}, "field `rejected`"),
        ({"chosen": [{"role": "user"}], "rejected": "w1"}, "a list of turns .* in its field `chosen`"),
        ({"chosen": "w1", "rejected": "w2", "prompt": 3}, "field `prompt`, but one has 3"),
    ):
        with pytest.raises(EvaluatorError, match=said):
            opened(tmp_path, "gpt2", [*rows(), wrong])


def test_turns_need_a_template_that_can_write_them(tmp_path: Path) -> None:
    tokenizer = word_tokenizer("gpt2")
    tokenizer.chat_template = None
    spec = RewardPairsSpec(name="pairs", data=written(tmp_path, rows()), chat_template=True)
    with pytest.raises(EvaluatorError, match="by the tokenizer's chat template, but it has none"):
        spec.open(plain_setting(Splits(), tokenizer))
    tokenizer.chat_template = "{{ raise_exception('no turns today') }}"
    with pytest.raises(EvaluatorError, match=r"example `pairs:.*no turns today"):
        spec.open(plain_setting(Splits(), tokenizer))


def test_an_entry_of_a_job_file_comes_back_from_json(tmp_path: Path) -> None:
    entry = {
        "evaluator": "reward-pairs",
        "name": "bench",
        "data": {"dataset": "org/pairs", "split": "test"},
        "prompt": "question",
        "chosen": "better",
        "rejected": "worse",
        "chat_template": True,
        "label": 1,
        "limit": {"search": 100},
        "batch_tokens": 4096,
        "weight": 2.0,
    }
    kind = TypeAdapter(RewardPairsSpec)
    spec = kind.validate_python(entry)
    assert kind.validate_json(kind.dump_json(spec)) == spec
    with pytest.raises(ValidationError, match="label"):
        kind.validate_python({**entry, "label": True})
    evaluator = opened(tmp_path, "gpt2", rows())
    assert [(task.name, task.metric, task.higher_is_better) for task in evaluator.tasks()] == [
        ("pairs", "accuracy", True)
    ]
    assert sum(getattr(evaluator.counts()["pairs"], split) for split in ("search", "select", "test")) == 50
