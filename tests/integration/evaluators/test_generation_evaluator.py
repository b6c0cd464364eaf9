"""Texts of a small model, generated once and measured in several ways."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from small_tasks import character_tokenizer, small_llama, words
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from evaluators.generation import GenerationSpec, as_answer
from evaluators.lm import Generated
from evaluators.lm.pairs import Encoder
from evaluators.measures import Answer
from evaluators.measures.repetition import repeated_share
from evaluators.meter import Meter
from evaluators.protocol import Evaluator, EvaluatorError, ScoringError
from evaluators.setting import plain_setting
from evaluators.shares import Splits

TOKENS = 24
LENGTH = {"measure": "length", "unit": "characters", "direction": "minimize"}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rng = random.Random(1)
    rows = [{"prompt": f"{words(rng, 4 + index % 5)} {index} =", "topic": "any"} for index in range(12)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _spec(file: Path, *measures: Any, **options: Any) -> GenerationSpec:
    said = {"name": "texts", "data": str(file), "max_tokens": TOKENS, "measures": measures, **options}
    return GenerationSpec.model_validate(said)


def _open(file: Path, tokenizer: Any, *measures: Any, smooth: bool = False, **options: Any) -> Evaluator:
    return _spec(file, *measures, **options).open(plain_setting(Splits(), tokenizer, smooth=smooth))


def _ids(evaluator: Evaluator, task: str | None = None) -> list[str]:
    return [example.id for example in evaluator.examples() if task in (None, example.task)]


def _scores(evaluator: Evaluator, model: Any, ids: list[str] | None = None) -> dict[str, float]:
    asked = _ids(evaluator) if ids is None else ids
    outcomes = evaluator.score(model, asked)
    assert [outcome.id for outcome in outcomes] == asked
    assert all(outcome.smooth is None and outcome.loglikelihood is None for outcome in outcomes)
    return {outcome.id: outcome.metric for outcome in outcomes}


def _shared(scores: dict[str, float], measure: str) -> dict[str, float]:
    """The scores of one measure by the prompt's hash."""
    return {name.partition(":")[2]: value for name, value in scores.items() if name.startswith(f"texts.{measure}:")}


def _documents(evaluator: Evaluator) -> dict[str, str]:
    """The prompts as they are asked, by their hash."""
    return {name.partition(":")[2]: text for name, text in evaluator._texts.items()}  # type: ignore[attr-defined]


def _by_transformers(model: LlamaForCausalLM, tokenizer: Any, text: str, ends: tuple[int, ...]) -> Answer:
    asked = tokenizer(text, return_tensors="pt")
    whole = model.generate(
        **asked, max_new_tokens=TOKENS, do_sample=False, eos_token_id=list(ends), pad_token_id=0, use_cache=True
    )
    tokens = whole[0, asked["input_ids"].shape[1] :].tolist()
    ended = tokens[-1] in ends
    return Answer(
        tokenizer.decode(tokens, skip_special_tokens=True),
        tuple(tokens[:-1] if ended else tokens),
        "end" if ended else "length",
    )


def test_measures_are_those_of_the_texts_that_transformers_writes(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    model.generation_config.eos_token_id = [2, 33]
    measures = (LENGTH, {"measure": "repetition", "n": 2}, "truncated", "no_end")
    evaluator = _open(prompts, tokenizer, *measures)
    scores = _scores(evaluator, model)
    expected = {key: _by_transformers(model, tokenizer, text, (2, 33)) for key, text in _documents(evaluator).items()}
    assert _shared(scores, "length") == {key: len(one.text) for key, one in expected.items()}
    assert _shared(scores, "repetition") == {key: repeated_share(one.tokens, 2) for key, one in expected.items()}
    assert _shared(scores, "truncated") == {key: float(one.ended == "length") for key, one in expected.items()}
    assert len({one.text for one in expected.values()}) > 6
    assert {one.ended for one in expected.values()} == {"end", "length"}


def test_every_measure_is_a_task_with_the_same_prompts_in_the_same_splits(
    prompts: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    evaluator = _open(prompts, tokenizer, "truncated", {"measure": "repetition", "weight": 2, "objective": "style"})
    assert [(task.name, task.metric, task.higher_is_better) for task in evaluator.tasks()] == [
        ("texts.truncated", "truncated", False),
        ("texts.repetition", "seq_rep_4", False),
    ]
    assert [(task.weight, task.objective) for task in evaluator.tasks()] == [(1, "score"), (2, "style")]
    splits = [
        {example.id.partition(":")[2]: example.split for example in evaluator.examples() if example.task == task.name}
        for task in evaluator.tasks()
    ]
    assert splits[0] == splits[1]
    assert set(splits[0].values()) == {"search", "select", "test"}
    assert list(evaluator.counts()) == ["texts.truncated", "texts.repetition"]


def test_a_prompt_is_answered_once_for_all_of_its_measures_and_only_where_it_is_asked_for(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    def tokens(evaluator: Evaluator, ids: list[str]) -> int:
        meter = Meter()
        evaluator.score(model, ids, meter)
        assert meter.seconds["generation"] > 0
        assert meter.seconds["metrics"] > 0
        return meter.tokens["generation"]

    one = _open(prompts, tokenizer, "truncated")
    several = _open(prompts, tokenizer, "truncated", "no_end", "repetition", LENGTH)
    assert tokens(several, _ids(several)) == tokens(one, _ids(one))
    assert tokens(several, _ids(several, "texts.length")[:3]) == tokens(one, _ids(one)[:3])
    same = [_ids(several, "texts.no_end")[0], _ids(several, "texts.repetition")[0]]
    assert tokens(several, same) == tokens(one, _ids(one)[:1])


def test_a_score_depends_neither_on_the_other_examples_nor_on_their_order(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    for options in ({}, {"sampling": {"temperature": 0.8}, "samples": 2}):
        evaluator = _open(prompts, tokenizer, "repetition", LENGTH, **options)
        whole = _scores(evaluator, model)
        some = random.Random(2).sample(list(whole), 7)
        assert _scores(evaluator, model, some) == {name: whole[name] for name in some}
        assert _scores(evaluator, model, some[:1]) == {some[0]: whole[some[0]]}


def test_the_same_weights_draw_the_same_answers_and_samples_differ_from_each_other(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    tokens = {"measure": "length", "direction": "minimize"}

    def drawn(model: LlamaForCausalLM, samples: int, **sampling: Any) -> dict[str, float]:
        return _scores(_open(prompts, tokenizer, tokens, sampling=sampling, samples=samples), model)

    one, two = drawn(model, 1, temperature=1.5), drawn(model, 2, temperature=1.5)
    assert one == drawn(small_llama(1), 1, temperature=1.5)
    assert one != drawn(small_llama(2), 1, temperature=1.5)
    second = {name: 2 * two[name] - one[name] for name in one}  # the first of two answers is the one drawn alone
    assert all(length == int(length) and 0 <= length <= TOKENS for length in second.values())
    assert second != one
    assert drawn(model, 1, top_k=1) == _scores(_open(prompts, tokenizer, tokens), model)


def test_settings_left_out_are_those_of_the_models_generation_config(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    def scores(**options: Any) -> dict[str, float]:
        return _scores(_open(prompts, tokenizer, {"measure": "repetition", "n": 1}, **options), model)

    plain, penalised = scores(), scores(repetition_penalty=5.0)
    assert sum(penalised.values()) < sum(plain.values())
    drawn = scores(sampling={"top_k": 2, "temperature": 0.7})
    model.generation_config.repetition_penalty = 5.0
    assert scores() == penalised
    assert scores(repetition_penalty=1.0) == plain
    model.generation_config.repetition_penalty = None
    model.generation_config.top_k, model.generation_config.temperature = 2, 0.7
    assert scores(sampling={}) == drawn
    assert scores() == plain


def test_an_end_token_ends_an_answer_and_the_limit_cuts_it(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    model.lm_head.weight.data.zero_()  # the first token is written for ever
    measures = ("truncated", "no_end", {"measure": "length", "bound": {"at_most": 5}}, "repetition")
    evaluator = _open(prompts, tokenizer, *measures)

    def means() -> list[float]:
        scores = _scores(evaluator, model)
        found = [set(_shared(scores, name).values()) for name in ("truncated", "no_end", "length", "repetition")]
        return [value for (value,) in found]

    assert means() == [1, 1, TOKENS, 1 - 1 / (TOKENS - 3)]
    model.generation_config.eos_token_id = [0]
    assert means() == [0, 0, 0, 0]


def test_a_stop_string_ends_an_answer_before_it(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = _open(prompts, tokenizer, "truncated", "no_end", LENGTH)
    plain = {key: _by_transformers(model, tokenizer, text, (2,)) for key, text in _documents(evaluator).items()}
    # one character: of two, one might come before and one after a special token, which is no part of the text
    special = "".join(tokenizer.all_special_tokens)  # stop strings are looked for in their names too, as in lm-eval
    cuts = [(one.text[5:6], one.text[:5]) for one in plain.values()]
    stop = next(cut for cut, before in cuts if cut and cut not in before and cut not in special)
    stopped = _open(prompts, tokenizer, "truncated", "no_end", LENGTH, until=stop)
    scores = _scores(stopped, model)
    assert _shared(scores, "length") == {key: len(one.text.split(stop)[0]) for key, one in plain.items()}
    cut = {key: one.ended == "length" and stop not in one.text for key, one in plain.items()}
    assert _shared(scores, "truncated") == cut
    assert _shared(scores, "no_end") == {key: cut[key] or stop in one.text for key, one in plain.items()}


def test_tokens_that_only_a_stop_string_needed_do_not_count(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tuple(tokenizer.encode("abcd", add_special_tokens=False))
    assert as_answer(Generated(tokens, "ab", "stop"), tokenizer) == Answer("ab", tokens[:2], "stop")
    assert as_answer(Generated(tokens, "", "stop"), tokenizer) == Answer("", (), "stop")
    assert as_answer(Generated((*tokens, 2), "abcd", "end"), tokenizer) == Answer("abcd", tokens, "end")
    assert as_answer(Generated(tokens, "abcd", "length"), tokenizer) == Answer("abcd", tokens, "length")


def test_a_conversation_is_rendered_by_the_tokenizer_and_begins_with_one_beginning(
    prompts: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    bare = _documents(_open(prompts, tokenizer, "truncated"))
    told = _open(prompts, tokenizer, "truncated", chat_template=True, system_instruction="Be kind")
    assert _documents(told) == {key: f"<system>Be kind|<user>{text}|<assistant>" for key, text in bare.items()}
    assert Encoder(tokenizer).texts(["abc"]) == [(1, *tokenizer.encode("abc", add_special_tokens=False))]
    with_bos = character_tokenizer(chat=False)
    with_bos.add_tokens(["<bos>"], special_tokens=True)
    marked, plain = Encoder(with_bos).texts(["<bos>abc", "abc"])
    assert marked == plain


def test_a_prompt_too_long_for_the_window_loses_its_beginning(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    rng = random.Random(3)
    ends = [words(rng, 480) + f" {index}" for index in range(24)]

    def scores(beginnings: list[str]) -> list[float]:
        file = tmp_path / "long.txt"
        file.write_text("\n".join(map("".join, zip(beginnings, ends, strict=True))))
        measure = {"measure": "repetition", "n": 1}
        evaluator = _open(file, tokenizer, measure, field="text", max_tokens=64)
        return sorted(_scores(evaluator, model).values())

    found = scores(["the beginning of " * 3] * len(ends))
    assert found == scores([words(rng, 90) for _ in ends])
    assert len(set(found)) > 3


def test_an_answer_as_long_as_the_window_is_refused(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = _open(prompts, tokenizer, "truncated", max_tokens=512)
    with pytest.raises(EvaluatorError, match="may generate 512 tokens"):
        evaluator.score(model, _ids(evaluator)[:1])


def test_broken_weights_are_an_error_that_names_the_example(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = _open(prompts, tokenizer, "truncated", "no_end")
    model.model.norm.weight.data[3] = float("nan")
    asked = _ids(evaluator, "texts.no_end")[1:3]
    with pytest.raises(ScoringError, match=f"2 of 2 prompts.*({'|'.join(asked)})"):
        evaluator.score(model, asked)


def test_the_model_is_asked_in_eval_mode_and_given_back_as_it_was(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    evaluator = _open(prompts, tokenizer, {"measure": "repetition", "n": 1})
    before = _scores(evaluator, model)
    model.train()
    model.lm_head.eval()
    assert _scores(evaluator, model) == before
    assert model.training
    assert model.model.layers[0].training
    assert not model.lm_head.training


def test_a_lexicon_looks_at_the_answers_only(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    texts = _documents(_open(prompts, tokenizer, "truncated"))
    answers = {key: _by_transformers(model, tokenizer, text, (2,)).text for key, text in texts.items()}
    term = next(word for text in answers.values() for word in text.split() if word.isalnum())
    lexicon = tmp_path / "terms.txt"
    lexicon.write_text(f"# terms\n{term.swapcase()}\n" + "\n".join(text.split()[0] for text in texts.values()))
    scores = _scores(_open(prompts, tokenizer, {"measure": "toxicity", "lexicon": str(lexicon)}), model)
    toxic = {key for key, value in _shared(scores, "toxicity").items() if value == 1}
    assert {key for key, text in answers.items() if term in text.split()} <= toxic
    assert toxic != set(answers)


# ---- classifiers


def _classifier(folder: Path, kind: str, tokenizer: Any, labels: tuple[str, ...], problem: str | None = None) -> str:
    torch.manual_seed(5)
    about: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 20,
        "initializer_range": 0.5,
        "pad_token_id": 0,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": problem,
    }
    if kind == "bert":
        made: Any = BertForSequenceClassification(BertConfig(**about))
    elif kind == "roberta":
        made = RobertaForSequenceClassification(RobertaConfig(**{**about, "pad_token_id": 3}))
    else:
        made = LlamaForSequenceClassification(LlamaConfig(**about))
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "labels", "problem", "room"),
    [
        ("bert", ("fine", "toxic"), None, 20),
        ("bert", ("toxic",), None, 20),
        ("bert", ("toxic", "threat", "insult"), "multi_label_classification", 20),
        ("roberta", ("toxic", "fine"), None, 16),  # positions begin after that of the padding, 3
        ("llama", ("fine", "so-so", "toxic"), None, 20),
    ],
)
def test_a_classifier_gives_the_probability_that_transformers_gives(
    kind: str,
    labels: tuple[str, ...],
    problem: str | None,
    room: int,
    prompts: Path,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
    tmp_path: Path,
) -> None:
    its_own = character_tokenizer(chat=False)
    its_own.pad_token = "<unk>" if kind == "roberta" else "<pad>"
    folder = _classifier(tmp_path / "clf", kind, its_own, labels, problem)
    classifier = {"path": folder, "batch_size": 3}
    evaluator = _open(prompts, tokenizer, {"measure": "toxicity", "classifier": classifier}, max_tokens=TOKENS)
    meter = Meter()
    found = {one.id.partition(":")[2]: one.metric for one in evaluator.score(model, _ids(evaluator), meter)}
    alone = Meter()
    without = _open(prompts, tokenizer, "truncated")
    without.score(model, _ids(without), alone)
    assert meter.tokens == alone.tokens  # the classifier's tokens are not the model's

    direct = AutoModelForSequenceClassification.from_pretrained(folder)
    cut = 0
    for key, prompt in _documents(evaluator).items():
        text = _by_transformers(model, tokenizer, prompt, (2,)).text
        tokens = its_own.encode(text)
        cut += len(tokens) > room
        with torch.no_grad():
            logits = direct(torch.tensor([tokens[:room]])).logits[0]
        chances = logits.sigmoid() if len(labels) == 1 or problem else logits.softmax(-1)
        expected = float(chances[labels.index("toxic")]) if text.strip() else 0.0
        assert found[key] == pytest.approx(expected, abs=1e-5)
    assert 0 < cut < len(found)
    assert len({round(value, 4) for value in found.values()}) > 3


def test_a_classifier_that_cannot_answer_is_refused_before_the_first_trial(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def refused(path: Any, match: str, **options: Any) -> None:
        with pytest.raises(EvaluatorError, match=match):
            _open(prompts, tokenizer, {"measure": "toxicity", "classifier": {"path": str(path), **options}})

    folder = _classifier(tmp_path / "clf", "bert", character_tokenizer(chat=False), ("fine", "nasty"))
    refused(folder, "its labels, fine, nasty, but is `toxic`")
    _open(prompts, tokenizer, {"measure": "toxicity", "classifier": {"path": folder, "label": "nasty"}})
    (tmp_path / "clf" / "model.safetensors").rename(tmp_path / "clf" / "pytorch_model.bin")
    refused(folder, "safetensors", label="nasty")
    (tmp_path / "clf" / "config.json").unlink()
    refused(folder, "must be a folder", label="nasty")
    refused("nobody/no-such-classifier", "in the cache")


def test_a_classifier_without_its_head_is_refused_rather_than_given_a_random_one(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    folder = _classifier(tmp_path / "clf", "bert", character_tokenizer(chat=False), ("fine", "toxic"))
    BertForSequenceClassification.from_pretrained(folder).bert.save_pretrained(folder)
    evaluator = _open(prompts, tokenizer, {"measure": "toxicity", "classifier": {"path": folder}})
    with pytest.raises(EvaluatorError, match=r"classifier\.bias"):
        evaluator.score(model, _ids(evaluator))


def test_a_classifier_that_answers_nan_is_an_error_that_names_the_example(
    prompts: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    folder = _classifier(tmp_path / "clf", "bert", character_tokenizer(chat=False), ("fine", "toxic"))
    broken = BertForSequenceClassification.from_pretrained(folder)
    broken.classifier.bias.data[0] = float("nan")
    broken.save_pretrained(folder)
    evaluator = _open(prompts, tokenizer, {"measure": "toxicity", "classifier": {"path": folder}})
    with pytest.raises(ScoringError, match=r"toxicity` of example `texts\.toxicity:.* is nan"):
        evaluator.score(model, _ids(evaluator))


# ---- what a job file may say


def test_a_spec_survives_json_and_its_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "clf").mkdir()
    said = {
        "name": "texts",
        "data": "prompts.jsonl",
        "max_tokens": 8,
        "until": ["\n", "Q:"],
        "chat_template": True,
        "system_instruction": "Be kind",
        "sampling": {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
        "repetition_penalty": 1.1,
        "samples": 2,
        "batch_tokens": 512,
        "limit": {"search": 10},
        "measures": [
            "truncated",
            {"measure": "no_end", "bound": {"at_most": 0.1}},
            {"measure": "repetition", "n": 3, "threshold": 0.5, "weight": 2},
            {"measure": "length", "unit": "words", "bound": {"at_most": 9}},
            {"measure": "toxicity", "classifier": {"path": "clf"}},
        ],
    }
    spec = GenerationSpec.model_validate(said)
    assert GenerationSpec.model_validate_json(spec.model_dump_json()) == spec
    adapter = TypeAdapter(GenerationSpec)
    assert adapter.validate_python(json.loads(adapter.dump_json(spec))) == spec
    assert [entry.objective for entry in spec.counted()] == ["score", None, "score", None, "score"]
    moved = spec.located(lambda path: str(tmp_path / path)).model_dump()
    assert moved["data"]["file"] == str(tmp_path / "prompts.jsonl")
    assert moved["measures"][4]["classifier"]["path"] == str(tmp_path / "clf")
    lexicon = GenerationSpec.model_validate({**said, "measures": [{"measure": "toxicity", "lexicon": "t.txt"}]})
    assert lexicon.located(lambda path: f"/job/{path}").model_dump()["measures"][0]["lexicon"] == "/job/t.txt"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"samples": 2}, "sampling"),
        ({"samples": True, "sampling": {}}, "samples"),
        ({"system_instruction": "Be kind"}, "chat_template"),
        ({"sampling": {"temperature": 0}}, "temperature"),
        ({"sampling": {"top_p": 1.5}}, "top_p"),
        ({"sampling": {"seed": 1}}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"until": [""]}, "until"),
        ({"measures": []}, "measures"),
        ({"measures": ["truncated", {"measure": "truncated", "weight": 2}]}, "`truncated` is listed 2 times"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_a_mistake_is_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        GenerationSpec.model_validate({"name": "t", "data": "p.jsonl", "measures": ["truncated"], **options})


def test_what_cannot_be_evaluated_is_refused_when_it_is_opened(
    prompts: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(EvaluatorError, match="its fields are prompt, topic"):
        _open(prompts, tokenizer, "truncated", field="question")
    with pytest.raises(EvaluatorError, match="chat template, but this one has none"):
        _open(prompts, character_tokenizer(chat=False), "truncated", chat_template=True)
    no_system = character_tokenizer(chat=True)
    no_system.chat_template = "{{ raise_exception('no system role') if messages[0]['role'] == 'system' }}"
    with pytest.raises(EvaluatorError, match="no system role"):
        _open(prompts, no_system, "truncated", chat_template=True, system_instruction="Be kind")
    with pytest.raises(EvaluatorError, match=r"texts\.truncated, texts\.no_end has none"):
        _open(prompts, tokenizer, "truncated", "no_end", smooth=True)
    bounded = {"measure": "truncated", "bound": {"at_most": 0.1}}
    assert _open(prompts, tokenizer, bounded, smooth=True).tasks()[0].objective is None
