"""What vLLM is asked, and what is made of its answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from evaluators.lm import Continuation, Prompt, Sampling
from evaluators.lm.stops import Stops
from evaluators.vllm.requests import (
    BESIDE,
    SCORING,
    generated,
    likelihood,
    portions,
    sampling_options,
    scored_tokens,
    written_tokens,
)
from evaluators.vllm.spec import VllmSpec


@dataclass
class Logprob:
    """As in `vllm.logprobs`."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    """The fields of `vllm.outputs.CompletionOutput` that are read."""

    token_ids: Sequence[int]
    cumulative_logprob: float | None = -1.0
    finish_reason: str | None = "length"
    stop_reason: int | str | None = None


class Letters:
    """A tokenizer whose tokens 0 to 25 are letters and 26 is the special token `</s>`."""

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return "".join(
            chr(97 + token) if token < 26 else "" if skip_special_tokens else "</s>" for token in map(int, tokens)
        )


def places(*rows: dict[int, float]) -> list[dict[int, Logprob]]:
    """Log-probabilities as vLLM gives them: nothing for the first token."""
    return [{}, *({token: Logprob(value) for token, value in row.items()} for row in rows)]


def test_a_log_likelihood_is_the_sum_over_the_continuation_alone() -> None:
    request = Continuation((5, 6), (7, 8))
    answer = likelihood(request, (5, 6, 7, 8), places({6: -9.0}, {7: -0.5}, {8: -0.25}))
    assert answer.loglikelihood == -0.75
    assert answer.greedy


@pytest.mark.parametrize(
    ("last", "greedy"),
    [
        pytest.param({8: -0.5}, True, id="the likeliest"),
        pytest.param({8: -0.5, 3: -0.4}, False, id="one is likelier"),
        pytest.param({8: -0.5, 9: -0.5}, True, id="first of equals"),
        pytest.param({8: -0.5, 3: -0.5}, False, id="not the first of equals"),
    ],
)
def test_an_answer_is_greedy_where_decoding_would_have_given_it(last: dict[int, float], greedy: bool) -> None:
    request = Continuation((5, 6), (7, 8))
    assert likelihood(request, (5, 6, 7, 8), places({6: -9.0}, {7: -0.5}, last)).greedy is greedy


def test_one_token_that_is_not_greedy_makes_the_answer_not_greedy() -> None:
    request = Continuation((5,), (7, 8))
    assert not likelihood(request, (5, 7, 8), places({7: -2.0, 1: -0.1}, {8: -0.25})).greedy


def test_a_request_too_long_for_the_window_loses_its_beginning() -> None:
    long = Continuation(tuple(range(10)), (10, 11))
    assert scored_tokens(long, room=4) == (7, 8, 9, 10, 11)
    assert scored_tokens(long, room=50) == tuple(range(12))


def test_a_continuation_longer_than_the_window_is_scored_as_far_as_it_can_be_seen() -> None:
    request = Continuation((1,), (2, 3, 4, 5))
    tokens = scored_tokens(request, room=2)
    answer = likelihood(request, tokens, places({4: -1.0}, {5: -2.0}))
    assert tokens == (3, 4, 5)
    assert answer.loglikelihood == -3.0


@pytest.mark.parametrize("given", [None, places({7: -1.0})])
def test_an_answer_without_every_token_is_refused(given: Any) -> None:
    with pytest.raises(RuntimeError, match="for all 3 tokens of a prompt, but gave"):
        likelihood(Continuation((5,), (7, 8)), (5, 7, 8), given)


def test_a_prompt_for_scoring_fits_vllms_window_with_the_token_it_writes() -> None:
    room = 20 - BESIDE
    assert len(scored_tokens(Continuation(tuple(range(50)), (1,)), room)) + SCORING["max_tokens"] <= 20


def test_greedy_prompts_are_asked_greedily() -> None:
    asked = sampling_options(Prompt((1,), ("\n", ""), 9, repetition_penalty=1.2), end=[2, 3])
    assert asked["temperature"] == 0.0
    assert asked["max_tokens"] == 9
    assert asked["stop"] == ["\n"]  # vLLM refuses an empty one
    assert asked["stop_token_ids"] == [2, 3]
    assert asked["ignore_eos"]
    assert asked["repetition_penalty"] == 1.2
    assert not asked.keys() & {"seed", "top_k", "top_p", "min_p"}


def test_sampled_prompts_carry_their_own_seed_and_settings() -> None:
    drawn = Prompt((1,), (), 9, Sampling(seed=2**64 - 1, temperature=0.7, top_k=40, top_p=0.9, min_p=0.1))
    asked = sampling_options(drawn, end=[])
    assert (asked["temperature"], asked["top_k"], asked["top_p"], asked["min_p"]) == (0.7, 40, 0.9, 0.1)
    assert 0 <= asked["seed"] < 2**63
    plain = sampling_options(Prompt((1,), (), 9, Sampling(seed=5)), end=[])
    assert (plain["temperature"], plain["top_k"], plain["top_p"], plain["min_p"]) == (1.0, 0, 1.0, 0.0)
    assert plain["seed"] == 5


def test_a_prompt_leaves_room_for_its_answer() -> None:
    prompt = Prompt(tuple(range(30)), (), max_tokens=8)
    assert written_tokens(prompt, room=20) == tuple(range(18, 30))
    assert written_tokens(prompt, room=40) == tuple(range(30))


@pytest.mark.parametrize(
    ("output", "text", "ended"),
    [
        pytest.param(CompletionOutput([0, 1, 2]), "abc", "length", id="length"),
        pytest.param(CompletionOutput([0, 1, 26], finish_reason="stop", stop_reason=26), "ab", "end", id="end token"),
        pytest.param(CompletionOutput([0, 26], finish_reason="stop"), "a", "end", id="vLLM's own end token"),
        pytest.param(
            CompletionOutput([0, 1, 4], finish_reason="stop", stop_reason="be"), "a", "stop", id="stop string"
        ),
        pytest.param(CompletionOutput([0, 26, 1]), "ab", "length", id="a special token on the way"),
    ],
)
def test_a_text_is_cut_and_its_end_named_as_by_our_engine(output: Any, text: str, ended: str) -> None:
    answer = generated(output, Letters(), Stops(Letters(), ("be",)))
    assert (answer.tokens, answer.text, answer.ended) == (tuple(output.token_ids), text, ended)
    assert answer.finite


@pytest.mark.parametrize("total", [None, float("nan"), float("-inf")])
def test_a_text_of_broken_weights_is_not_finite(total: float | None) -> None:
    assert not generated(CompletionOutput([0], total), Letters(), Stops(Letters(), ())).finite


def test_a_text_that_vllm_gave_up_on_is_not_an_answer() -> None:
    with pytest.raises(RuntimeError, match="for the reason 'abort'"):
        generated(CompletionOutput([0], finish_reason="abort"), Letters(), Stops(Letters(), ()))


def test_portions_hold_every_prompt_once_and_in_order() -> None:
    prompts = [(1,) * length for length in (3, 4, 9, 1, 1)]
    found = list(portions(prompts, most=6))
    assert [list(portion) for portion in found] == [[0, 1], [2], [3, 4]]
    assert list(portions([], most=6)) == []


def test_workers_that_share_a_gpu_share_its_memory() -> None:
    assert VllmSpec().share(1) == 0.8
    assert VllmSpec().share(0.5) == 0.4
    assert VllmSpec().share(4) == 0.8
    assert VllmSpec(gpu_memory_utilization=0.6).share(0.5) == 0.6
