"""Our requests in vLLM's words, and its outputs in ours."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from evaluators.lm.requests import Continuation, Generated, Likelihood, Prompt, Tokens
from evaluators.lm.stops import Stops

BESIDE = 2
"""How many tokens longer than `LanguageModel.room` vLLM's window must be.

vLLM reads the last token of a continuation, which needs not be read, and asks for the room of one token after it.
"""

SCORING: dict[str, Any] = {
    "max_tokens": 1,  # the least it takes
    "temperature": 0.0,
    "prompt_logprobs": 1,  # each token's own log-probability, and the largest there is
    "flat_logprobs": True,
    "detokenize": False,
}
"""What is asked for a log-likelihood. With `prompt_logprobs` vLLM reads nothing from its prefix cache."""

_SEEDS = 2**63  # vLLM keeps seeds as signed 64-bit numbers


class LogProbability(Protocol):
    """As much of `vllm.logprobs.Logprob` as is read."""

    @property
    def logprob(self) -> float: ...


class Completion(Protocol):
    """As much of `vllm.outputs.CompletionOutput` as is read."""

    @property
    def token_ids(self) -> Sequence[int]: ...
    @property
    def cumulative_logprob(self) -> float | None: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def stop_reason(self) -> int | str | None: ...


def scored_tokens(request: Continuation, room: int) -> Tokens:
    """The prompt whose tokens' log-probabilities answer the request; too long, it loses its beginning."""
    return (request.context + request.continuation)[-(room + 1) :]


def likelihood(
    request: Continuation, tokens: Tokens, places: Sequence[Mapping[int, LogProbability] | None] | None
) -> Likelihood:
    """The answer to a request from what vLLM found likely at each place of its prompt.

    A token is the greedy one where none is more likely, and of equals the first in the vocabulary, as in
    `evaluators.lm`. vLLM's own `rank` would not do: two equals at the top both have rank 2.
    """
    if places is None or len(places) != len(tokens):
        raise RuntimeError(
            f"vLLM must give log-probabilities for all {len(tokens)} tokens of a prompt, but gave "
            f"{0 if places is None else len(places)}; this version of it cannot be used."
        )
    asked = min(len(request.continuation), len(tokens) - 1)
    total, greedy = 0.0, True
    for place in range(len(tokens) - asked, len(tokens)):
        known, token = places[place], tokens[place]
        assert known is not None
        total += known[token].logprob
        greedy = greedy and token == min(known, key=lambda other: (-known[other].logprob, other))
    return Likelihood(total, greedy)


def sampling_options(prompt: Prompt, end: Sequence[int]) -> dict[str, Any]:
    """The keyword arguments of `SamplingParams` for a prompt; `end` are the tokens that end a text.

    Stop strings are looked for in the text with its special tokens, as in `evaluators.lm`.
    """
    options: dict[str, Any] = {
        "max_tokens": prompt.max_tokens,
        "temperature": 0.0,
        "repetition_penalty": prompt.repetition_penalty,
        "stop": [stop for stop in prompt.until if stop],
        "stop_token_ids": list(end),
        "ignore_eos": True,  # vLLM's own idea of it; ours are among the stop tokens
        "skip_special_tokens": False,
        "logprobs": 0,  # of the chosen tokens alone: tells weights that are broken
        "flat_logprobs": True,
    }
    if prompt.sampling is not None:
        how = prompt.sampling
        options |= {
            "temperature": how.temperature,
            "top_k": how.top_k or 0,
            "top_p": 1.0 if how.top_p is None else how.top_p,
            "min_p": how.min_p or 0.0,
            "seed": how.seed % _SEEDS,
        }
    return options


def written_tokens(prompt: Prompt, room: int) -> Tokens:
    """The prompt that leaves room for its answer; too long, it loses its beginning."""
    return prompt.tokens[-(room - prompt.max_tokens) :]


def generated(output: Completion, tokenizer: Any, stops: Stops) -> Generated:
    """vLLM's answer as ours: its tokens are taken, its text made of them here, so that both engines cut alike."""
    tokens = tuple(output.token_ids)
    text = stops.cut(tokenizer.decode(tokens, skip_special_tokens=True))
    total = output.cumulative_logprob
    return Generated(tokens, text, _ended(output), finite=total is not None and abs(total) < float("inf"))


def portions(prompts: Sequence[Tokens], most: int) -> Iterator[range]:
    """Consecutive prompts of about `most` tokens together."""
    start = taken = 0
    for number, prompt in enumerate(prompts):
        taken += len(prompt)
        if taken >= most:
            yield range(start, number + 1)
            start, taken = number + 1, 0
    if start < len(prompts):
        yield range(start, len(prompts))


def _ended(output: Completion) -> Literal["stop", "end", "length"]:
    if output.finish_reason == "length":
        return "length"
    if output.finish_reason != "stop":
        raise RuntimeError(f"vLLM ended a text for the reason {output.finish_reason!r}, which is none of stop, length.")
    return "stop" if isinstance(output.stop_reason, str) else "end"
