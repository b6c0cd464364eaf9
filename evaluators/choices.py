"""How likely the gold choice is among a question's choices, from the log-likelihoods of all of them."""

import math
from collections.abc import Sequence


def gold_probability(scores: Sequence[float], gold: Sequence[int]) -> float:
    """The softmax of `scores` at the gold choice, in [0, 1]; with several gold choices, the sum over them."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    return min(1.0, math.fsum(weights[index] for index in gold) / math.fsum(weights))


def gold_loglikelihood(loglikelihoods: Sequence[float], gold: Sequence[int]) -> float:
    """The log-likelihood in nats of the gold choice; with several, of any one of them (log of the sum)."""
    if len(gold) == 1:
        return loglikelihoods[gold[0]]
    top = max(loglikelihoods[index] for index in gold)
    return top + math.log(math.fsum(math.exp(loglikelihoods[index] - top) for index in gold))


def comparable(metric: str, loglikelihoods: Sequence[float], choices: Sequence[str]) -> list[float]:
    """The scores by which lm-eval's `metric` compares the choices.

    `acc_norm` divides by the length in characters, `acc_bytes` by the length in UTF-8 bytes,
    `acc_mutual_info` subtracts the log-likelihood without the question (the second half of
    `loglikelihoods`); others compare as is.
    """
    own = loglikelihoods[: len(choices)]
    if metric == "acc_norm":
        return [_per(value, len(choice)) for value, choice in zip(own, choices, strict=True)]
    if metric == "acc_bytes":
        return [_per(value, len(choice.encode())) for value, choice in zip(own, choices, strict=True)]
    if metric == "acc_mutual_info":
        alone = loglikelihoods[len(choices) :]
        return [asked - bare for asked, bare in zip(own, alone, strict=True)]
    return list(own)


def _per(value: float, length: int) -> float:
    return value / length if length else -math.inf  # as lm-eval: an empty choice is never preferred
