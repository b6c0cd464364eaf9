"""Answers to forget and answers to keep: whose probability is measured, and how it counts."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from small_tasks import ALPHABET, character_tokenizer, small_llama, words, write_task
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.aggregate import objectives, task_means
from evaluators.forget_retain import ForgetRetainEvaluator, ForgetRetainSpec
from evaluators.harness import HarnessEvaluator, ResidentLM
from evaluators.lm.pairs import Encoder
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.protocol import EvaluatorError, Outcome, ScoringError
from evaluators.setting import plain_setting
from evaluators.shares import Splits
from evaluators.splits import content_hash

Rows = list[dict[str, str]]


def rows(seed: int, count: int = 24) -> Rows:
    rng = random.Random(seed)
    return [
        {"prompt": f"Who wrote {words(rng, rng.randint(3, 9))}?", "answer": words(rng, rng.randint(1, 6))}
        for _ in range(count)
    ]


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("store")))


def opened(folder: Path, tokenizer: Any, forget: Rows, retain: Rows, **options: Any) -> ForgetRetainEvaluator:
    files = {}
    for side, documents in (("forget", forget), ("retain", retain)):
        files[side] = str(folder / f"{side}.jsonl")
        Path(files[side]).write_text("".join(json.dumps(row) + "\n" for row in documents))
    spec = ForgetRetainSpec.model_validate({"name": "facts", **files, "batch_tokens": 512, **options})
    evaluator = spec.open(plain_setting(Splits(), tokenizer))
    assert isinstance(evaluator, ForgetRetainEvaluator)
    return evaluator


def ids_of(evaluator: Any) -> list[str]:
    return [example.id for example in evaluator.examples()]


def id_of(row: dict[str, str], side: str = "forget") -> str:
    return f"facts.{side}:{content_hash(row)}"


@torch.no_grad()
def by_hand(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str
) -> tuple[float, float, bool]:
    """(log-likelihood, probability per token, is it greedy) of an answer of single characters."""
    context = tokenizer.encode(prompt)
    continuation = tokenizer.encode(answer, add_special_tokens=False)
    logits = model(torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1]
    picked = logits.log_softmax(-1)[torch.arange(len(continuation)), continuation].double()
    greedy = logits.argmax(-1).tolist() == continuation
    return picked.sum().item(), math.exp(picked.mean().item()), greedy


def written(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, length: int) -> str:
    """What the model writes after a prompt, greedily."""
    tokens = tokenizer.encode(prompt)
    start = len(tokens)
    for _ in range(length):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return "".join(tokenizer.convert_ids_to_tokens(tokens[start:]))


def test_an_answer_has_its_probability_per_token_after_a_single_space(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    forget, retain = rows(1), rows(2)
    evaluator = opened(tmp_path, tokenizer, forget, retain)
    outcomes = {one.id: one for one in evaluator.score(model, ids_of(evaluator))}
    assert len(outcomes) == len(forget) + len(retain)
    for side, documents in (("forget", forget), ("retain", retain)):
        for row in documents:
            loglikelihood, probability, _ = by_hand(model, tokenizer, row["prompt"], " " + row["answer"])
            found = outcomes[id_of(row, side)]
            assert found.metric == found.smooth == pytest.approx(probability, rel=1e-4)
            assert found.loglikelihood == pytest.approx(loglikelihood, rel=1e-5)


def test_an_answer_has_the_likelihood_lm_eval_gives_it(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    forget = [*rows(1), {"prompt": "a" * 700, "answer": "too long a prompt loses its beginning"}]
    write_task(
        tmp_path,
        "facts.forget",
        {"test": forget},
        output_type="loglikelihood",
        doc_to_text="{{prompt}}",
        doc_to_target=" {{answer}}",
        metric_list=[{"metric": "acc"}],
    )
    said = {"tasks": ["facts.forget"], "include_path": str(tmp_path), "batch_tokens": 512}
    theirs = HarnessEvaluator(LmEvalSpec.model_validate(said), Splits(), tokenizer)
    ours = opened(tmp_path, tokenizer, forget, rows(2), metric="exact")
    ids = [name for name in ids_of(ours) if name.startswith("facts.forget:")]
    assert ids == ids_of(theirs)
    for one, other in zip(ours.score(model, ids), theirs.score(model, ids), strict=True):
        assert one.loglikelihood == pytest.approx(other.loglikelihood, rel=1e-6)
        assert one.metric == other.metric


def test_exact_is_one_where_the_model_would_write_the_answer(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    known = [{"prompt": row["prompt"], "answer": written(model, tokenizer, row["prompt"], 3)} for row in rows(1)]
    known = [row for row in known if set(row["answer"]) <= set(ALPHABET) and row["answer"].strip() == row["answer"]]
    assert len(known) >= 12
    forget = [*known, *rows(3, 12)]
    evaluator = opened(tmp_path, tokenizer, forget, rows(2), metric="exact", separator="")
    outcomes = {one.id: one for one in evaluator.score(model, ids_of(evaluator))}
    for row in forget:
        _, probability, greedy = by_hand(model, tokenizer, row["prompt"], row["answer"])
        assert outcomes[id_of(row)].metric == float(greedy)
        assert outcomes[id_of(row)].smooth == pytest.approx(probability, rel=1e-4)
    assert all(outcomes[id_of(row)].metric == 1.0 for row in known)
    assert 0.0 in [one.metric for one in outcomes.values()]


@pytest.mark.parametrize(
    ("prompt", "answer", "separator", "asked"),
    [
        ("Q: x\nA:", "y", None, ("Q: x\nA:", " y")),
        ("Q: x\n", "y", None, ("Q: x", "\ny")),
        ("Q: x", " y", None, ("Q: x", " y")),
        ("Q: x", "y", "\nA: ", ("Q: x", "\nA: y")),
        ("Q: x ", "y", "", ("Q: x", " y")),
        ("Q: x", "y", "", ("Q: x", "y")),
    ],
)
def test_prompt_and_answer_are_joined_as_the_file_says(
    prompt: str,
    answer: str,
    separator: str | None,
    asked: tuple[str, str],
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    model: LlamaForCausalLM,
) -> None:
    row = {"prompt": prompt, "answer": answer}
    evaluator = opened(tmp_path, tokenizer, [*rows(1), row], rows(2), separator=separator)
    (found,) = evaluator.score(model, [id_of(row)])
    assert found.loglikelihood == pytest.approx(by_hand(model, tokenizer, *asked)[0], rel=1e-5)


def test_with_a_chat_template_the_prompt_is_what_a_user_says(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    row = rows(1)[0]
    evaluator = opened(tmp_path, tokenizer, rows(1), rows(2), chat_template=True)
    (found,) = evaluator.score(model, [id_of(row)])
    expected, _, _ = by_hand(model, tokenizer, f"<user>{row['prompt']}|<assistant>", row["answer"])
    assert found.loglikelihood == pytest.approx(expected, rel=1e-5)
    with pytest.raises(EvaluatorError, match="tokenizer with a chat template, but this one has none"):
        opened(tmp_path, character_tokenizer(chat=False), rows(1), rows(2), chat_template=True)
    strict = character_tokenizer(chat=True)
    strict.chat_template = "{{ raise_exception('a system turn comes first') }}"
    with pytest.raises(EvaluatorError, match="take one turn of a user, but says: a system turn comes first"):
        opened(tmp_path, strict, rows(1), rows(2), chat_template=True)


def close(first: Outcome, second: Outcome) -> bool:
    return first.id == second.id and math.isclose(first.metric, second.metric, rel_tol=1e-5)


def test_a_score_does_not_depend_on_what_is_asked_with_it(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = opened(tmp_path, tokenizer, rows(1), rows(2))
    ids = ids_of(evaluator)
    together = dict(zip(ids, evaluator.score(model, ids), strict=True))
    backwards = evaluator.score(model, ids[::-1])
    assert [one.id for one in backwards] == ids[::-1]
    assert all(close(one, together[one.id]) for one in backwards)
    assert all(close(evaluator.score(model, [name])[0], together[name]) for name in ids[::7])


def test_a_refilled_model_is_scored_anew_and_its_modes_stay(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = opened(tmp_path, tokenizer, rows(1), rows(2))
    first = evaluator.score(model, ids_of(evaluator))
    model.load_state_dict(small_llama(9).state_dict())
    model.train()
    again = evaluator.score(model, ids_of(evaluator))
    assert all(module.training for module in model.modules())
    fresh = opened(tmp_path, tokenizer, rows(1), rows(2)).score(small_llama(9), ids_of(evaluator))
    assert again == fresh
    assert again != first


def test_weights_that_are_not_finite_are_an_error_that_names_the_example(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = opened(tmp_path, tokenizer, rows(1), rows(2))
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    name = ids_of(evaluator)[-1]
    with pytest.raises(ScoringError, match=f"`{name}` is nan"):
        evaluator.score(model, [name])


def test_forgetting_is_the_objective_and_keeping_is_bounded(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    evaluator = opened(tmp_path, tokenizer, rows(1), rows(2), forgetting={"weight": 2})
    forget, retain = evaluator.tasks()
    assert (forget.name, forget.metric, forget.objective, forget.weight) == (
        "facts.forget",
        "answer_probability",
        "score",
        2.0,
    )
    assert not forget.higher_is_better
    assert forget.turned
    assert forget.bound is None
    assert retain.name == "facts.retain"
    assert retain.higher_is_better
    assert not retain.turned
    assert retain.objective is None
    assert retain.bound is not None
    assert retain.bound.in_words() == "at least -0.02 from base"
    outcomes = evaluator.score(model, ids_of(evaluator))
    means = task_means(outcomes, [forget, retain])
    for signal in ("metric", "smooth"):  # both rise as the answers to forget become unlikely
        assert objectives(outcomes, [forget, retain], signal) == {"score": -means["facts.forget"]["metric"]}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("forget", "retain", "options", "said"),
    [
        (
            [*rows(1), {"prompt": "Who?", "answer": "Ada"}],
            [*rows(2), {"prompt": "Who? ", "answer": "Ada"}],
            {},
            "both forgotten and kept, but 1 documents of `forget` are in `retain` too.*'Who\\?', 'answer': 'Ada'",
        ),
        ([{"prompt": "Who?"}] * 3, rows(2), {}, "field `answer`, but one has None; its fields are prompt"),
        (rows(1), [{"prompt": "Who?", "answer": ""}], {}, "field `answer`, but one has ''"),
        (rows(1), rows(2), {"prompt": "question"}, "field `question`"),
        (rows(1), rows(2, 2), {}, "`facts.retain` has none for"),
    ],
)
def test_documents_that_cannot_be_scored_are_refused(
    forget: Rows,
    retain: Rows,
    options: dict[str, Any],
    said: str,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(EvaluatorError, match=said):
        opened(tmp_path, tokenizer, forget, retain, **options)


def test_an_answer_of_no_token_or_longer_than_the_window_is_refused_by_name(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    swallowed = {"prompt": "a", "answer": "\t"}
    with pytest.raises(EvaluatorError, match=f"`{id_of(swallowed)}` has none.*'answer': '.t'"):
        opened(tmp_path, stripping_tokenizer(), [*rows(1), swallowed], rows(2))
    long = {"prompt": "a", "answer": "b" * 512}
    evaluator = opened(tmp_path, tokenizer, [*rows(1), long], rows(2))
    with pytest.raises(EvaluatorError, match=f"window of 512 tokens, but that of `{id_of(long)}` has 513"):
        evaluator.score(model, [id_of(long)])


def stripping_tokenizer() -> PreTrainedTokenizerFast:
    """One whose tokens are words, with nothing between them."""
    tokenizer = character_tokenizer(chat=False)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    return tokenizer


# ---- tokens of pairs

CORPUS = ["the answer is forty two", "Paris is the capital of France", "  two spaces\n\nand lines\n", "héllo wörld"] * 5
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "Paris"),
    ("The capital of France is", "Paris"),
    ("ends in lines\n\n", "and goes on"),
    ("ends in both \n ", " and goes on"),
    ("the answ", "er is forty"),
    ("héllo", " wörld"),
    ("<s>already begins", " with the prefix"),
    ("", "nothing before it"),
    ("", " nothing but a space before it"),
    ("answer", " "),
]


def byte_tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE, whose merges reach over the place where an answer begins."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if not bos:
        return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.mark.parametrize("bos", [True, False], ids=["bos", "no-bos"])
def test_pairs_and_texts_get_the_tokens_lm_eval_gives_them(bos: bool) -> None:
    tokenizer = byte_tokenizer(bos)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=64,
    )
    theirs = ResidentLM(LlamaForCausalLM(config), tokenizer)
    encoder = Encoder(tokenizer)
    assert encoder.prefix == theirs.prefix_token_id
    expected = [(tuple(context), tuple(continuation)) for _, context, continuation in theirs.encode(PAIRS)]
    assert [tuple(pair) for pair in encoder.pairs(PAIRS)] == expected
    texts = [context + continuation for context, continuation in PAIRS]
    assert encoder.texts(texts) == [tuple(theirs.tok_encode(text)) for text in texts]
    assert {len(context) for context, _ in expected} > {1}, "the pairs say nothing"


def test_a_context_of_spaces_alone_is_no_context() -> None:
    encoder = Encoder(byte_tokenizer(bos=False))
    ((context, continuation),) = encoder.pairs([(" \n", "the answer")])
    assert context == (encoder.prefix,)
    assert [continuation] == encoder.texts([" \nthe answer"])
