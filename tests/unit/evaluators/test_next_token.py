"""The next token, the end of a text, and what is kept between calls."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.lm.decoding import choose
from evaluators.lm.memory import backing_off
from evaluators.lm.requests import Prompt, Sampling
from evaluators.lm.stops import Stops
from evaluators.lm.token_store import stored_tokens


class Letters:
    """A tokenizer of one character a token."""

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:  # noqa: ARG002
        self.decoded += 1
        return "".join(chr(token) for token in tokens)


def prompt(sampling: Sampling | None = None, penalty: float = 1.0) -> Prompt:
    return Prompt((1,), (), 8, sampling, penalty)


def drawn(how: dict[str, Any], logits: list[float], times: int = 3000) -> Counter[int]:
    row = torch.tensor([logits])
    return Counter(choose(row, [prompt(Sampling(seed, **how))], [[]]).item() for seed in range(times))  # type: ignore[misc]


def test_tokens_are_drawn_as_often_as_the_model_says() -> None:
    found = drawn({}, [0.0, 1.0, 2.0])
    for token, chance in enumerate(torch.softmax(torch.tensor([0.0, 1.0, 2.0]), 0).tolist()):
        assert found[token] / 3000 == pytest.approx(chance, abs=0.03)


def test_top_k_top_p_and_min_p_leave_out_what_they_say() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).tolist()
    assert set(drawn({"top_k": 2}, logits)) == {0, 1}
    assert set(drawn({"top_p": 0.7}, logits)) == {0, 1}
    assert set(drawn({"min_p": 0.25}, logits)) == {0, 1, 2}
    assert set(drawn({"temperature": 0.01}, logits, 200)) == {0}


def test_a_draw_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    prompts = [prompt(Sampling(seed)) for seed in range(5)]
    together = choose(logits.clone(), prompts, [[]] * 5).tolist()
    alone = [choose(logits[row : row + 1].clone(), [prompts[row]], [[]]).item() for row in range(5)]
    assert together == alone


def test_a_repetition_penalty_turns_away_from_what_is_there() -> None:
    logits = torch.tensor([[1.0, 1.1, -1.0]])
    assert choose(logits.clone(), [prompt()], [[]]).item() == 1
    assert choose(logits.clone(), [prompt(penalty=1.3)], [[1]]).item() == 0


def test_a_stop_string_is_noticed_wherever_tokens_break_it() -> None:
    stops = Stops(Letters(), ["\n\n", "END"])
    text = [ord(one) for one in "a\nb\n"]
    assert not stops.reached(text)
    assert stops.reached([*text, ord("\n")])
    assert stops.reached([ord(one) for one in "xEND"])
    assert stops.cut("one\n\ntwo END") == "one"


def test_tokens_that_cannot_end_a_stop_string_are_not_decoded_again() -> None:
    tokenizer = Letters()
    stops = Stops(tokenizer, ["END"])
    for _ in range(50):
        stops.reached([ord("a")])
    assert tokenizer.decoded == 1


def test_a_call_that_runs_out_of_memory_is_repeated_with_half_of_it() -> None:
    shares = []

    def call(share: float) -> float:
        shares.append(share)
        if share > 0.3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return share

    assert backing_off(call) == 0.25
    assert shares == [1.0, 0.5, 0.25]


def test_memory_that_is_never_enough_and_other_errors_are_raised() -> None:
    def starved(_: float) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    def broken(_: float) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="not enough memory"):
        backing_off(starved)
    with pytest.raises(RuntimeError, match="shapes"):
        backing_off(broken)


def test_strings_are_tokenized_once_for_all_processes(tmp_path: Path) -> None:
    calls: list[int] = []

    def encode(strings: Any) -> list[list[int]]:
        calls.append(len(strings))
        return [[ord(one) for one in string] for string in strings]

    strings = ["ab", "", "cde"]
    expected = [[97, 98], [], [99, 100, 101]]
    assert stored_tokens(strings, "one", encode, tmp_path) == expected
    assert stored_tokens(strings, "one", encode, tmp_path) == expected
    assert calls == [3]
    stored_tokens(strings, "another tokenizer", encode, tmp_path)
    assert calls == [3, 3]
    for file in tmp_path.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:20])
    assert stored_tokens(strings, "one", encode, tmp_path) == expected
    assert stored_tokens(strings, None, encode, tmp_path) == expected  # a tokenizer that cannot be named
