"""Texts are classified as transformers classifies each of them alone, by the model's head or an expert's."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from small_classifiers import VOCAB, WINDOW, WORDS, classifier, setting_for, word_tokenizer, words, written
from transformers import (
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from evaluators.classifier import Classifier, Text
from evaluators.meter import Meter
from evaluators.protocol import EvaluatorError, Outcome, ScoringError
from evaluators.text_classification import TextClassificationEvaluator, TextClassificationSpec
from merging.live import LiveMerge
from merging.recipe import Recipe, Source
from merging.sources import Sources

END = word_tokenizer("gpt2").convert_tokens_to_ids("w2")
KINDS = pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])


def rows(count: int = 60, labels: int = 3, seed: int = 0, pair: bool = False) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {"text": words(rng), "label": rng.randrange(labels), **({"pair": words(rng, 6)} if pair else {})}
        for _ in range(count)
    ]


def opened(folder: Path, kind: str, data: list[dict[str, Any]], experts: Any = (), **options: Any) -> Any:
    spec = TextClassificationSpec(name="task", data=written(folder, data), **options)
    return spec.open(setting_for(kind, folder, tuple(experts)))


def alone(model: Any, kind: str, text: str, pair: str | None = None, **cut: Any) -> torch.Tensor:
    """The logits as a user of transformers would get them."""
    tokenizer = word_tokenizer(kind)
    tokenizer.truncation_side = cut.get("side", "right")
    inputs = tokenizer(text, pair, return_tensors="pt", truncation=True, max_length=WINDOW)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(**inputs).logits[0]
    return logits


def expected(logits: torch.Tensor, gold: int) -> tuple[float, float, float]:
    loglikelihood = logits.double().log_softmax(0)[gold].item()
    return float(int(logits.argmax()) == gold), math.exp(loglikelihood), loglikelihood


def check(outcomes: list[Outcome], answers: list[tuple[float, float, float]]) -> None:
    assert len({metric for metric, _, _ in answers}) == 2, "these examples cannot tell right from wrong"
    for outcome, (metric, smooth, loglikelihood) in zip(outcomes, answers, strict=True):
        assert outcome.metric == metric
        assert outcome.smooth == pytest.approx(smooth, abs=1e-5)
        assert outcome.loglikelihood == pytest.approx(loglikelihood, abs=1e-5)


def all_ids(evaluator: Any) -> list[str]:
    return [example.id for example in evaluator.examples()]


def documents(evaluator: TextClassificationEvaluator) -> list[Any]:
    return [evaluator._dealt.documents[name] for name in all_ids(evaluator)]


@pytest.mark.parametrize(
    ("kind", "pad"),
    [("bert", 0), ("bert", None), *((kind, pad) for kind in ("gpt2", "llama") for pad in (0, None, END))],
)
def test_every_text_is_scored_as_it_is_alone(tmp_path: Path, kind: str, pad: int | None) -> None:
    """Also where there is no padding token, or it is a word that texts end with, as where it is the end token."""
    model = classifier(kind, 3, pad_token_id=pad)
    data = rows()
    for row in data[:20]:
        row["text"] += " w2 w2"
    evaluator = opened(tmp_path, kind, data, batch_tokens=128)
    outcomes = evaluator.score(model, all_ids(evaluator))
    check(outcomes, [expected(alone(model, kind, one["text"]), one["label"]) for one in documents(evaluator)])
    assert model.config.pad_token_id == pad


@KINDS
def test_two_texts_are_joined_by_the_tokenizer(tmp_path: Path, kind: str) -> None:
    model = classifier(kind, 3)
    evaluator = opened(tmp_path, kind, rows(pair=True), pair="pair")
    outcomes = evaluator.score(model, all_ids(evaluator))
    scores = [alone(model, kind, one["text"], one["pair"]) for one in documents(evaluator)]
    check(outcomes, [expected(logits, one["label"]) for logits, one in zip(scores, documents(evaluator), strict=True)])
    assert not torch.allclose(scores[0], alone(model, kind, documents(evaluator)[0]["text"]))


@KINDS
def test_long_texts_keep_the_end_for_decoders_and_the_beginning_for_encoders(kind: str) -> None:
    model = classifier(kind, 3)
    text = " ".join(random.Random(1).choices(WORDS, k=3 * WINDOW))
    side = "right" if kind == "bert" else "left"
    scores = Classifier(model, word_tokenizer(kind)).logits([Text(text), Text("w1 w2")])
    assert torch.allclose(scores[0], alone(model, kind, text, side=side), atol=1e-5)
    assert torch.allclose(scores[1], alone(model, kind, "w1 w2"), atol=1e-5)


@KINDS
def test_texts_of_different_length_share_a_batch(kind: str) -> None:
    model = classifier(kind, 3)
    texts = [Text(row["text"]) for row in rows(30)]
    meet: list[int] = []
    model.register_forward_pre_hook(lambda _, __, inputs: meet.append(len(inputs["input_ids"])), with_kwargs=True)
    scorer = Classifier(model, word_tokenizer(kind))
    scorer.logits(texts)
    meet.clear()
    scorer.logits(texts)
    assert meet == [len(set(texts))]


def test_models_that_take_padding_for_text_are_not_padded() -> None:
    """XLNet reads its answer at the last place, whatever stands there."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32}
    model = XLNetForSequenceClassification(XLNetConfig(**sizes, num_labels=3, initializer_range=0.5)).eval()
    texts = [row["text"] for row in rows(20)]
    found = Classifier(model, word_tokenizer("gpt2")).logits([Text(text) for text in texts])
    assert torch.allclose(found, torch.stack([alone(model, "gpt2", text) for text in texts]), atol=1e-5)


def test_models_that_count_positions_after_their_padding_have_room_for_less() -> None:
    torch.manual_seed(0)
    body: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = RobertaConfig(vocab_size=VOCAB, max_position_embeddings=12, pad_token_id=1, num_labels=2, **body)
    model = RobertaForSequenceClassification(config).eval()
    scores = Classifier(model, word_tokenizer("gpt2")).logits([Text(" ".join(WORDS)), Text(" ".join(WORDS[:10]))])
    assert torch.equal(scores[0], scores[1])


@KINDS
def test_neither_order_nor_company_changes_a_score(tmp_path: Path, kind: str) -> None:
    model = classifier(kind, 3)
    evaluator = opened(tmp_path, kind, rows())
    together = {outcome.id: outcome for outcome in evaluator.score(model, all_ids(evaluator))}
    some = random.Random(2).sample(all_ids(evaluator), 7)
    for outcome in opened(tmp_path, kind, rows(), batch_tokens=1).score(model, some):
        assert outcome.loglikelihood == pytest.approx(together[outcome.id].loglikelihood, abs=1e-5)
    assert [outcome.id for outcome in evaluator.score(model, some)] == some
    assert evaluator.score(model, []) == []


def experts_of(folder: Path, kind: str, counts: dict[str, int]) -> None:
    for seed, (name, count) in enumerate(counts.items(), start=1):
        model = classifier(kind, count, seed)
        model.config.id2label = {place: f"{name}{place}" for place in range(count)}
        model.config.label2id = {label: place for place, label in model.config.id2label.items()}
        model.save_pretrained(folder / name)


@KINDS
def test_each_task_is_scored_with_the_head_of_its_expert(tmp_path: Path, kind: str) -> None:
    """Heads of other sizes than the resident model's, labels by the expert's names, and nothing of it stays."""
    experts = {"mood": 3, "topic": 5}
    experts_of(tmp_path, kind, experts)
    model = classifier(kind, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, count in experts.items():
        data = [{**row, "label": f"{name}{row['label']}"} for row in rows(labels=count)]
        evaluator = opened(tmp_path, kind, data, experts, head=name)
        outcomes = evaluator.score(model, all_ids(evaluator))
        other = classifier(kind, count, seed=9)
        own = load_file(tmp_path / name / "model.safetensors")
        body = {key: value for key, value in before.items() if key.startswith(f"{model.base_model_prefix}.")}
        pooler = {key: value for key, value in own.items() if "pooler" in key}
        other.load_state_dict({**own, **body, **pooler})
        check(
            outcomes,
            [expected(alone(other, kind, one["text"]), int(one["label"][-1])) for one in documents(evaluator)],
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_set_of_classifiers_is_merged_and_each_parent_scores_as_it_does_by_itself(tmp_path: Path) -> None:
    """The base has no head at all; a parent is the merge with one coefficient at 1."""
    experts = {"mood": 3, "topic": 5}
    experts_of(tmp_path, "gpt2", experts)
    classifier("gpt2", 2).transformer.save_pretrained(tmp_path / "base")
    blank = Recipe(
        method="task_arithmetic",
        base=Source(path=str(tmp_path / "base")),
        experts={name: Source(path=str(tmp_path / name)) for name in experts},
        coefficients={},
        unmerged=("head",),
    )
    sources = Sources(blank)
    resident = GPT2ForSequenceClassification.from_pretrained(sources.config_folder)
    live = LiveMerge(resident, sources)
    for place, (name, count) in enumerate(experts.items()):
        row = tuple(float(other == place) for other in range(len(experts)))
        live.fill(blank.model_copy(update={"coefficients": {group.name: row for group in sources.groups}}))
        evaluator = opened(tmp_path, "gpt2", rows(labels=count), experts, head=name)
        parent = GPT2ForSequenceClassification.from_pretrained(tmp_path / name)
        scored = [expected(alone(parent, "gpt2", one["text"]), one["label"]) for one in documents(evaluator)]
        check(evaluator.score(resident, all_ids(evaluator)), scored)


def test_labels_are_numbers_or_names_of_the_models_own_config(tmp_path: Path) -> None:
    model = classifier("gpt2", 3)
    model.config.label2id = {"no": 0, "maybe": 1, "yes": 2}
    numbered = opened(tmp_path, "gpt2", rows())
    scores = [outcome.smooth for outcome in numbered.score(model, all_ids(numbered))]
    named = opened(tmp_path, "gpt2", [{**row, "label": ["no", "1", "yes"][row["label"]]} for row in rows()])
    again = [outcome.smooth for outcome in named.score(model, all_ids(named))]
    assert sorted(again) == pytest.approx(sorted(scores), abs=1e-5)  # their ids, and so their order, are others


def test_weights_that_are_not_finite_fail_with_the_example_named(tmp_path: Path) -> None:
    model = classifier("bert", 3)
    with torch.no_grad():
        model.classifier.weight[1] = torch.nan
    evaluator = opened(tmp_path, "bert", rows())
    ids = all_ids(evaluator)
    with pytest.raises(ScoringError, match=f"example `{ids[0]}`"):
        evaluator.score(model, ids[:1])


def test_a_model_in_training_is_scored_without_dropout_and_goes_on_training(tmp_path: Path) -> None:
    model = classifier("bert", 3)
    evaluator = opened(tmp_path, "bert", rows())
    quiet = evaluator.score(model, all_ids(evaluator))
    model.train()
    model.classifier.eval()
    assert evaluator.score(model, all_ids(evaluator)) == quiet
    assert model.training
    assert model.bert.training
    assert not model.classifier.training


def test_changed_weights_change_the_scores_and_tokens_are_counted_without_padding(tmp_path: Path) -> None:
    model, meter = classifier("gpt2", 3), Meter()
    evaluator = opened(tmp_path, "gpt2", rows())
    first = evaluator.score(model, all_ids(evaluator), meter)
    assert meter.tokens == {"forward": sum(len(one["text"].split()) for one in documents(evaluator))}
    assert 0 < meter.model_seconds <= meter.seconds["forward"]
    with torch.no_grad():
        model.score.weight.neg_()
    assert evaluator.score(model, all_ids(evaluator)) != first


def test_memory_that_runs_out_is_answered_with_smaller_batches(tmp_path: Path) -> None:
    model = classifier("gpt2", 3)
    evaluator = opened(tmp_path, "gpt2", rows())
    whole, own, sizes = evaluator.score(model, all_ids(evaluator)), model.forward, []

    def scarce(input_ids: Any = None, attention_mask: Any = None, use_cache: Any = None) -> Any:
        sizes.append(input_ids.numel())
        if input_ids.numel() > 100:
            raise torch.OutOfMemoryError("out of memory")
        return own(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    model.forward = scarce
    for outcome, before in zip(evaluator.score(model, all_ids(evaluator)), whole, strict=True):
        assert outcome.loglikelihood == pytest.approx(before.loglikelihood, abs=1e-5)
    assert max(sizes) > 100


@pytest.mark.parametrize(
    ("label", "said"),
    [(7, "a number from 0 to 2, but example `task:.*` has 7"), ("topic4", "one of mood0, mood1, mood2.*has 'topic4'")],
)
def test_a_label_the_head_does_not_have_is_refused_before_anything_is_scored(
    tmp_path: Path, label: Any, said: str
) -> None:
    experts_of(tmp_path, "gpt2", {"mood": 3})
    data = [*rows(), {"text": "w1", "label": label}]
    with pytest.raises(EvaluatorError, match=said):
        opened(tmp_path, "gpt2", data, ("mood",), head="mood")
    evaluator = opened(tmp_path, "gpt2", data)
    with pytest.raises(EvaluatorError, match="must be one of LABEL_0"):
        evaluator.check_model(classifier("gpt2", 3).to("meta"))


def test_data_and_experts_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    for wrong, said in (
        ({"text": "w1"}, "label in its field `label`.*has None"),
        ({"text": "w1", "label": 1.5}, "has 1.5"),
        ({"text": "w1", "label": True}, "has True"),
        ({"label": 1}, "text in its field `text`"),
    ):
        with pytest.raises(EvaluatorError, match=said):
            opened(tmp_path, "gpt2", [*rows(), wrong])
    with pytest.raises(EvaluatorError, match="`head` must name an expert, one of mood, topic, but is 'mod'"):
        opened(tmp_path, "gpt2", rows(), ("mood", "topic"), head="mod")
    with pytest.raises(EvaluatorError, match=r"`head: mood`: .*mood must be the folder of a text classifier"):
        opened(tmp_path, "gpt2", rows(), ("mood",), head="mood")
    reward = opened(tmp_path, "gpt2", rows(labels=1))
    with pytest.raises(EvaluatorError, match="at least 2 labels, but this one has 1"):
        reward.check_model(classifier("gpt2", 1))


def test_an_expert_without_a_fitting_head_is_refused(tmp_path: Path) -> None:
    experts_of(tmp_path, "gpt2", {"mood": 3, "bare": 3})
    config = json.loads((tmp_path / "mood" / "config.json").read_text())
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    (tmp_path / "mood" / "config.json").write_text(json.dumps(config | labels))
    with pytest.raises(EvaluatorError, match=r"must have shape \(2, 16\) for its 2 labels, but has \(3, 16\)"):
        opened(tmp_path, "gpt2", rows(), ("mood",), head="mood")
    tensors = load_file(tmp_path / "bare" / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, tmp_path / "bare" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluatorError, match=r"`head: bare`: .* lacks score\.weight"):
        opened(tmp_path, "gpt2", rows(), ("bare",), head="bare")
    experts_of(tmp_path, "bert", {"other": 3})
    evaluator = opened(tmp_path, "gpt2", rows(), ("other",), head="other")
    evaluator.check_model(classifier("bert", 2).to("meta"))
    with pytest.raises(EvaluatorError, match=r"merged model's are score\.weight"):
        evaluator.check_model(classifier("gpt2", 3).to("meta"))


def test_an_entry_of_a_job_file_comes_back_from_json(tmp_path: Path) -> None:
    entry = {
        "evaluator": "text-classification",
        "name": "nli",
        "data": {"file": "nli.csv"},
        "text": "premise",
        "pair": "hypothesis",
        "label": "gold",
        "head": "mnli",
        "limit": 50,
        "batch_tokens": 4096,
        "direction": "minimize",
    }
    kind = TypeAdapter(TextClassificationSpec)
    spec = kind.validate_python(entry)
    assert kind.validate_json(kind.dump_json(spec)) == spec
    assert spec.located(lambda path: f"/jobs/{path}").data.file == "/jobs/nli.csv"
    data = opened(tmp_path, "gpt2", rows(), direction="minimize")
    assert [(task.metric, task.higher_is_better, task.turned) for task in data.tasks()] == [("accuracy", False, True)]
