"""Let a model with random weights end its answers at mixed lengths, as trained ones do."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import LlamaForCausalLM

from evaluators.lm import Generated, LanguageModel

MEAN_SHARE = 0.3  # of the longest answer
_HAZARD = 3.2  # x with (1 - exp(-x)) / x = MEAN_SHARE


def end_tokens_for_mixed_lengths(model: LlamaForCausalLM, longest: int) -> None:
    """Choose end tokens so that answers have about `MEAN_SHARE` of the longest length.

    They go into the model's generation config, which lm-eval's model and ours both obey. Random weights write all
    tokens about equally often, so with n end tokens among V a text ends at each step with a chance of n / V: lengths
    are geometric, most answers short and a few in a hundred cut at the longest. A small model repeats itself and so
    writes longer answers; what they came to is printed.
    """
    vocabulary = model.config.vocab_size
    count = round(_HAZARD * vocabulary / longest)
    model.generation_config.eos_token_id = [2, *random.Random(0).sample(range(4, vocabulary), count)]


@contextmanager
def answer_lengths(found: list[int]) -> Iterator[None]:
    """Inside, keep how many tokens each text has that our engine writes."""
    generate = LanguageModel.generate

    def listening(self: LanguageModel, *arguments: object) -> list[Generated]:
        answers = generate(self, *arguments)  # type: ignore[arg-type]
        found.extend(len(answer.tokens) for answer in answers)
        return answers

    LanguageModel.generate = listening  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        LanguageModel.generate = generate  # type: ignore[method-assign]
