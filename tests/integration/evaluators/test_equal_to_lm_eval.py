"""Our scoring engine gives the answers of lm-eval's own Hugging Face model, for every kind of task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from small_tasks import ALPHABET, LETTER, choice_rows, letter_rows, write_task
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from evaluators.harness import ResidentLM

CLOSE = 1e-4  # nats
WORDS = len(ALPHABET) + 4
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
OWN_NAMES: dict[str, Any] = {"vocab_size": WORDS, "initializer_range": 0.4, "bos_token_id": 1, "eos_token_id": 2}

# Windows of 24 tokens are shorter than most prompts, so sliding layers differ from full ones.
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8, tie_word_embeddings=True)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, head_dim=8, sliding_window=24)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=24)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=24)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**OWN_NAMES, n_embd=32, n_layer=2, n_head=4, n_positions=512)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**OWN_NAMES, hidden_size=32, n_layer=2, n_head=4)),
}

TASKS = ["pick", "pick_shots", "letter", "letter_shots", "last", "stream"]


@pytest.fixture(scope="module")
def folder(tasks: Path) -> Path:
    """The usual tasks, and one of texts longer than the models' window."""
    texts = {"test": [{"text": " ".join(row["word"] for row in letter_rows(seed, 180))} for seed in range(3)]}
    rolling = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    write_task(
        tasks,
        "stream",
        texts,
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=rolling,
    )
    return tasks


def samples(lm: HFLM, folder: Path, names: list[str], **options: Any) -> dict[str, list[Any]]:
    """What lm-eval got back for every example of every task."""
    results = lm_eval.simple_evaluate(
        lm,
        tasks=names,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    assert results is not None
    rows = results["samples"]
    return {name: [row["resps"] for row in sorted(rows[name], key=lambda row: row["doc_id"])] for name in names}


def assert_same(found: Any, expected: Any) -> None:
    """Texts and choices equal, log-likelihoods within rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=CLOSE, rel=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("name", list(MODELS))
def test_every_answer_is_the_one_lm_eval_gets(name: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(3)
    model = MODELS[name]().eval()
    expected = samples(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8), folder, TASKS)
    assert_same(samples(ResidentLM(model, tokenizer), folder, TASKS), expected)
    assert len({str(text) for text in expected["letter"]}) > 5  # otherwise equal texts would prove little


def test_prompts_in_a_chat_template_are_answered_alike(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(4)
    model, names = MODELS["llama"]().eval(), ["pick_shots", "letter_shots"]
    chat: dict[str, Any] = {
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "system_instruction": "Be brief.",
    }
    expected = samples(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8), folder, names, **chat)
    assert_same(samples(ResidentLM(model, tokenizer), folder, names, **chat), expected)


def test_a_small_token_budget_changes_no_answer(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(5)
    model = MODELS["qwen3"]().eval()
    expected = samples(ResidentLM(model, tokenizer), folder, TASKS)
    assert_same(samples(ResidentLM(model, tokenizer, batch_tokens=40), folder, TASKS), expected)


def test_bfloat16_answers_agree_to_its_rounding(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(6)
    model = MODELS["llama"]().eval().to(torch.bfloat16)
    exact = samples(HFLM(pretrained=model.float(), tokenizer=tokenizer, batch_size=8), folder, ["pick"])["pick"]
    rounded = samples(ResidentLM(model.to(torch.bfloat16), tokenizer), folder, ["pick"])["pick"]
    for one, other in zip(rounded, exact, strict=True):
        for [(value, _)], [(wanted, _)] in zip(one, other, strict=True):
            assert value == pytest.approx(wanted, rel=0.05, abs=0.5)


def test_sampled_answers_depend_on_the_prompt_and_the_weights_alone(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    drawn = {"until": ["\n"], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0, "top_k": 20}
    write_task(tmp_path, "drawn", {"test": letter_rows(9, 30)}, **{**LETTER, "generation_kwargs": drawn}, repeats=2)
    write_task(
        tmp_path,
        "other",
        {"test": choice_rows(9, 5)},
        **{**LETTER, "doc_to_text": "{{question}}", "doc_to_target": "a"},
    )
    torch.manual_seed(7)
    model = MODELS["llama"]().eval()
    alone = samples(ResidentLM(model, tokenizer), tmp_path, ["drawn"])["drawn"]
    again = samples(ResidentLM(model, tokenizer, batch_tokens=50), tmp_path, ["other", "drawn"])["drawn"]
    assert alone == again
    assert any(first != second for [[first, second]] in alone)  # the repeats of a prompt are draws of their own
