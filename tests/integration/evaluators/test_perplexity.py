"""Perplexity of texts: lm-eval's numbers, whatever else is asked."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tasks import character_tokenizer, words, write_task
from tokenizers import normalizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.harness import HarnessEvaluator
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.meter import Meter
from evaluators.perplexity import PerplexityEvaluator, PerplexitySpec
from evaluators.protocol import EvaluatorError, Outcome, ScoringError
from evaluators.setting import plain_setting
from evaluators.shares import Splits
from evaluators.splits import content_hash

WINDOW = 512  # small_llama's
METRICS = ("bits_per_byte", "byte_perplexity", "word_perplexity", "token_perplexity")


def texts() -> list[str]:
    """Short ones, ones around the window's length, and ones of several windows."""
    rng = random.Random(3)
    lengths = [1, 3, 9, 20, 33, 60, 80, 110, WINDOW - 2, WINDOW - 1, WINDOW, WINDOW + 1, 700, 2 * WINDOW - 1, 1100]
    long = [" ".join(words(rng, rng.randint(1, 7)) for _ in range(length))[:length].strip() for length in lengths]
    return [*long, "ends in a space ", "two\nlines", "<bos>begins with it"]


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "stream.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()))
    return file


def opened(data: Any, tokenizer: Any, **options: Any) -> PerplexityEvaluator:
    said = {"name": "stream", "data": str(data) if isinstance(data, Path) else data, "batch_tokens": 2048}
    spec = PerplexitySpec.model_validate({**said, **options})
    evaluator = spec.open(plain_setting(Splits(), tokenizer))
    assert isinstance(evaluator, PerplexityEvaluator)
    return evaluator


def ids_of(evaluator: Any) -> list[str]:
    return [example.id for example in evaluator.examples()]


def without_bos() -> PreTrainedTokenizerFast:
    """The same characters, with no bos token at all: the eos token is the prefix."""
    tokenizer = character_tokenizer(chat=False)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<pad>")
    bare.backend_tokenizer.post_processor = None
    return bare


@pytest.mark.parametrize("bos", [True, False], ids=["bos", "no-bos"])
def test_a_document_scores_as_in_lm_evals_rolling_task(
    bos: bool, data: Path, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    tokenizer = character_tokenizer(chat=False) if bos else without_bos()
    shared = [metric for metric in METRICS if metric != "token_perplexity"]
    write_task(
        tmp_path,
        "stream",
        {"test": [{"text": text} for text in texts()]},
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": metric} for metric in shared],
    )
    for metric in shared:
        entry = {"task": "stream", "metric": metric}
        spec = LmEvalSpec.model_validate({"tasks": [entry], "include_path": str(tmp_path), "batch_tokens": 2048})
        theirs = HarnessEvaluator(spec, Splits(), tokenizer)
        ours = opened(data, tokenizer, metric=metric)
        assert ours.examples() == theirs.examples()
        assert ours.tasks() == theirs.tasks()
        found, expected = ours.score(model, ids_of(ours)), theirs.score(model, ids_of(ours))
        assert len(found) == len(texts())
        for one, other in zip(found, expected, strict=True):
            assert one.id == other.id
            assert one.loglikelihood == pytest.approx(other.loglikelihood, rel=1e-6)
            assert one.metric == pytest.approx(other.metric, rel=1e-6)
            assert one.smooth == pytest.approx(other.smooth, rel=1e-6)


@torch.no_grad()
def test_a_text_that_fits_the_window_has_the_perplexity_of_its_logits(
    data: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()[:8]))
    evaluators = {metric: opened(data, tokenizer, metric=metric) for metric in METRICS}
    for text in texts()[:8]:
        name = f"stream:{content_hash({'text': text})}"
        tokens = tokenizer.encode(text)
        logits = model(torch.tensor([[tokenizer.bos_token_id, *tokens[:-1]]])).logits[0]
        nats = -logits.log_softmax(-1)[torch.arange(len(tokens)), tokens].double().sum().item()
        expected = {
            "bits_per_byte": nats / len(text.encode()) / math.log(2),
            "byte_perplexity": math.exp(nats / len(text.encode())),
            "word_perplexity": math.exp(nats / len(text.split())),
            "token_perplexity": math.exp(nats / len(tokens)),
        }
        for metric, evaluator in evaluators.items():
            (found,) = evaluator.score(model, [name])
            assert found.metric == pytest.approx(expected[metric], rel=1e-4), metric
            assert found.loglikelihood == pytest.approx(-nats, rel=1e-5)
            assert found.smooth == pytest.approx(math.exp(-nats / len(tokens)), rel=1e-4)


def close(first: Outcome, second: Outcome) -> bool:
    return first.id == second.id and math.isclose(first.metric, second.metric, rel_tol=1e-5)


def test_a_score_does_not_depend_on_what_is_asked_with_it(
    data: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = opened(data, tokenizer)
    ids = ids_of(evaluator)
    together = dict(zip(ids, evaluator.score(model, ids), strict=True))
    backwards = evaluator.score(model, ids[::-1])
    assert [one.id for one in backwards] == ids[::-1]
    assert all(close(one, together[one.id]) for one in backwards)
    assert all(close(evaluator.score(model, [name])[0], together[name]) for name in ids[::4])


def test_texts_are_tokenized_once_for_all_trials_and_all_processes(
    data: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(data, tokenizer)
    before = first.score(model, ids_of(first))
    monkeypatch.setattr(tokenizer, "encode", lambda *_, **__: pytest.fail("tokenized again"))
    torch.nn.init.zeros_(model.lm_head.weight)
    second = opened(data, tokenizer)  # as another worker would
    after = second.score(model, ids_of(first))
    assert after == first.score(model, ids_of(first))
    assert all(one.metric != other.metric for one, other in zip(before, after, strict=True))  # nothing of weights stays


def test_the_model_is_left_as_it_was_and_the_time_is_counted(
    data: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator, meter = opened(data, tokenizer), Meter()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    outcomes = evaluator.score(model, ids_of(evaluator)[:3], meter)
    assert [module.training for module in model.modules()] == before
    assert outcomes == evaluator.score(model.eval(), ids_of(evaluator)[:3])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert meter.tokens["forward"] > 0
    assert {"forward", "metrics"} <= set(meter.seconds)


def test_weights_that_are_not_finite_are_an_error_that_names_the_example(
    data: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = opened(data, tokenizer)
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    name = ids_of(evaluator)[0]
    with pytest.raises(ScoringError, match=f"`{name}` is nan"):
        evaluator.score(model, [name])


def test_a_perplexity_beyond_all_numbers_is_an_error_that_says_what_to_use(
    data: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    data.write_text("".join(json.dumps({"text": "abcd" * number}) + "\n" for number in range(300, 315)))
    evaluator = opened(data, tokenizer, metric="word_perplexity")
    name = ids_of(evaluator)[0]
    with pytest.raises(ScoringError, match=rf"`word_perplexity` of example `{name}`.*bits_per_byte"):
        evaluator.score(model, [name])


def test_a_text_file_is_scored_by_paragraphs_and_equal_paragraphs_count_once(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join([f"paragraph {number}\nof two lines" for number in range(20)] * 2))
    evaluator = opened({"file": str(file), "unit": "paragraph"}, tokenizer)
    assert len(evaluator.examples()) == 20
    assert evaluator.counts()["stream"].duplicates == 20


def test_a_text_is_the_same_example_whatever_its_field_and_the_fields_beside_it(
    data: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    other = tmp_path / "other.jsonl"
    rows = [{"number": number, "body": text} for number, text in enumerate(texts())]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert opened(other, tokenizer, field="body").examples() == opened(data, tokenizer).examples()


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([{"body": "a"}], {}, "field `text`.*its fields are body"),
        ([{"text": 5}], {}, "must have text in its field `text`, but one has 5"),
        ([{"text": "a"}], {}, "`stream` has none for"),
    ],
)
def test_data_that_cannot_be_scored_is_refused(
    rows: list[dict[str, Any]], options: dict[str, Any], said: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EvaluatorError, match=said):
        opened(file, tokenizer, **options)


def test_a_text_of_no_token_and_a_tokenizer_without_a_prefix_are_refused(data: Path, tmp_path: Path) -> None:
    bare = without_bos()
    bare.eos_token = None
    with pytest.raises(EvaluatorError, match="bos token, or else its eos token, but it has neither"):
        opened(data, bare)
    stripping = without_bos()
    stripping.backend_tokenizer.normalizer = normalizers.Replace("!", "")
    file = tmp_path / "empty.jsonl"
    file.write_text("".join(json.dumps({"text": "!" * number}) + "\n" for number in range(1, 20)))
    with pytest.raises(EvaluatorError, match=r"must have a token to be predicted.*'!"):
        opened(file, stripping)


def test_to_forget_texts_turns_the_aim_and_the_smooth_score(data: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (task,) = opened(data, tokenizer, direction="maximize").tasks()
    assert task.higher_is_better
    assert task.turned
