"""Texts written side by side are the texts written alone, however many slots there are."""

import random

import pytest
import torch
from small_tasks import small_llama
from transformers import LlamaForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from evaluators.lm import Continuation, LanguageModel, Prompt
from evaluators.lm.forward import Forward
from evaluators.lm.generation import Writer
from evaluators.lm.memory import text_slots
from evaluators.meter import Meter


def prompts(count: int = 40) -> list[Prompt]:
    """Different lengths, limits and stop strings, and now and then a prompt that came before."""
    rng = random.Random(1)
    found: list[Prompt] = []
    for _ in range(count):
        tokens = (1, *(rng.randrange(4, 60) for _ in range(rng.randint(1, 30))))
        found.append(Prompt(tokens, rng.choice([("a",), ("bc", "\n"), ()]), rng.randint(1, 20)))
        if rng.random() < 0.2:
            found.append(rng.choice(found))
    return found


def written(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, slots: int, budget: int) -> list[str]:
    writer = Writer(Forward(model), tokenizer, [2], room=512, slots=slots, budget=budget)
    with torch.no_grad():
        return [f"{answer.text!r} {answer.ended}" for answer in writer.write(prompts(), Meter(), lambda _: None)]


@pytest.mark.parametrize(("slots", "budget"), [(1, 40), (2, 1000), (7, 64), (200, 4096)])
def test_the_number_of_slots_changes_no_text(tokenizer: PreTrainedTokenizerFast, slots: int, budget: int) -> None:
    model = small_llama(3)
    alone = LanguageModel(model, tokenizer, 512)
    expected = [f"{answer.text!r} {answer.ended}" for prompt in prompts() for answer in alone.generate([prompt])]
    assert written(model, tokenizer, slots, budget) == expected
    assert len({text.rsplit(" ", 1)[-1] for text in expected}) == 3  # ends, stops and limits all came up


def test_every_prompt_is_reported_done_once(tokenizer: PreTrainedTokenizerFast) -> None:
    reported: list[int] = []
    LanguageModel(small_llama(3), tokenizer, 512).generate(prompts(), done=reported.append)
    assert sum(reported) == len(prompts())


def test_broken_weights_are_told_with_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    model = small_llama(3)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(torch.nan)
    assert not any(answer.finite for answer in LanguageModel(model, tokenizer, 512).generate(prompts()[:3]))


def test_a_model_without_attention_is_asked_in_plain_rows(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=76, hidden_size=32, num_hidden_layers=2, state_size=8)).eval()
    lm = LanguageModel(model, tokenizer, 512)
    request = Continuation((1, 5, 6, 7), (8, 9))
    with torch.no_grad():
        logits = torch.log_softmax(model(torch.tensor([[1, 5, 6, 7, 8]])).logits[0].float(), dim=-1)
    expected = float(logits[3, 8] + logits[4, 9])
    others = [Continuation((1, 5), (6, 7, 8, 9, 10)), Continuation((1, 5, 6, 7), (11,))]
    assert lm.loglikelihoods([request, *others])[0].loglikelihood == pytest.approx(expected, abs=1e-4)
    answers = lm.generate([Prompt((1, 5, 6), (), 4), Prompt((1, 5, 6, 7), (), 6)])
    assert [len(answer.tokens) for answer in answers] == [4, 6]


def test_seconds_and_tokens_are_counted_and_the_floor_is_part_of_them(tokenizer: PreTrainedTokenizerFast) -> None:
    meter = Meter()
    lm = LanguageModel(small_llama(3), tokenizer, 512)
    lm.loglikelihoods([Continuation((1, 5, 6), (7, 8)), Continuation((1, 5, 6), (7, 9))], meter)
    assert meter.tokens == {"forward": 4}  # the beginning once, and no last tokens
    lm.generate([Prompt((1, 5, 6), (), 3)], meter)
    assert meter.tokens["generation"] == 3 + 2
    assert 0 < meter.model_seconds <= sum(meter.seconds.values())


def test_a_worker_on_a_cpu_keeps_its_key_value_cache_small() -> None:
    config = small_llama(3).config
    each = 2 * 2 * 4 * 8 * 4  # keys and values, layers, heads, head size, bytes
    assert text_slots(config, torch.device("cpu"), torch.float32, longest=(2 << 30) // each // 5) == 5
