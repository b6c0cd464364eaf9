"""Let a model with random weights end its answers at mixed lengths, as trained ones do."""

import random
from collections.abc import Sequence

from benchmarks.trial.contestants import Ours

_MEAN_SHARE = 0.3  # of the longest answer


def end_tokens_for_mixed_lengths(ours: Ours) -> None:
    """Choose end tokens among those the model writes, so that answers have about `_MEAN_SHARE` of the longest length.

    They go into the model's generation config, which lm-eval's model and ours both obey.
    """
    ours.model.generation_config.eos_token_id = [2]
    lm = ours.evaluator._resident(ours.model)
    found: list[Sequence[int]] = []
    generate = lm._lm.generate

    def spy(prompts, meter, done):  # type: ignore[no-untyped-def]
        answers = generate(prompts, meter, done)
        found.extend(answer.tokens for answer in answers)
        return answers

    lm._lm.generate = spy  # type: ignore[method-assign]
    ours.evaluator.score(ours.model, [example.id for example in ours.evaluator.examples()])
    lm._lm.generate = generate  # type: ignore[method-assign]
    longest = max(map(len, found))
    words = sorted({token for tokens in found for token in tokens})
    random.Random(0).shuffle(words)
    ends: list[int] = [2]
    for word in words:
        ends.append(word)
        lengths = [
            next((place + 1 for place, token in enumerate(tokens) if token in set(ends)), longest) for tokens in found
        ]
        if sum(lengths) / len(lengths) <= _MEAN_SHARE * longest:
            break
    ours.model.generation_config.eos_token_id = ends
