"""Turn a model's answers into outcomes, by lm-eval's own filters and metrics."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluators.choices import comparable, gold_loglikelihood, gold_probability
from evaluators.harness.items import Asked, Item
from evaluators.protocol import EvaluatorError, Outcome, ScoringError

# lm-eval's perplexity metrics as functions of nats per word or byte.
ROLLING: dict[str, Callable[[float], float]] = {
    "bits_per_byte": lambda nats: nats / math.log(2),
    "byte_perplexity": math.exp,
    "word_perplexity": math.exp,
}


def hand_over(item: Item, loglikelihoods: Sequence[tuple[float, bool]], texts: Sequence[str]) -> None:
    """Hand the model's answers to lm-eval's request objects.

    A task with `repeats` asks each question several times; greedy answers are the same each time, so one answer may
    stand for all.
    """
    answers: list[Any] = list(loglikelihoods)
    if item.asked.kind == "loglikelihood_rolling":
        answers = [math.fsum(value for value, _ in loglikelihoods)]
    for place, instance in enumerate(item.instances):
        own = list(texts) if item.asked.kind == "generate_until" else [answers[place]]
        instance.resps = own * ((instance.repeats or 1) // len(own))
        instance.filtered_resps = {}


def filtered_results(asked: Asked, items: Sequence[Item]) -> list[Mapping[str, Any]]:
    """lm-eval's metrics for each item, after the chosen filter."""
    instances = [instance for item in items for instance in item.instances]
    if not instances:
        return []
    asked.filter.apply(instances)
    key = asked.filter.name
    return [
        asked.lm_task.process_results(item.document, [one.filtered_resps[key] for one in item.instances])
        for item in items
    ]


def read_outcome(item: Item, results: Mapping[str, Any], loglikelihoods: Sequence[tuple[float, bool]]) -> Outcome:
    values = [value for value, _ in loglikelihoods]
    metric = item.asked.about.metric
    if metric not in results:
        raise ScoringError(f"example `{item.example.id}` got no `{metric}` from its task, only {', '.join(results)}.")
    number = per_document(metric, results[metric]) if metric in ROLLING else float(results[metric])
    if not math.isfinite(number):
        raise ScoringError(f"`{metric}` of example `{item.example.id}` is {number}.")
    if not values:
        return Outcome(item.example.id, number)
    if item.asked.kind == "multiple_choice":
        smooth = gold_probability(comparable(metric, values, item.choices), item.gold)
        return Outcome(item.example.id, number, smooth, gold_loglikelihood(values, item.gold))
    if item.asked.kind == "loglikelihood_rolling":
        total, tokens = math.fsum(values), sum(len(continuation) for _, _, continuation in item.encoded)
        return Outcome(item.example.id, number, min(1.0, math.exp(total / tokens)), total)
    return Outcome(item.example.id, number, min(1.0, math.exp(values[0])), values[0])


def per_document(metric: str, counted: tuple[float, int]) -> float:
    """A perplexity metric of one document, from its log-likelihood in nats and its number of words or bytes.

    lm-eval weights documents by their length; here, as everywhere in a search, each example counts once.
    """
    loglikelihood, size = counted
    try:
        return ROLLING[metric](-loglikelihood / max(1, size))
    except OverflowError:  # a text without blanks is one word
        return math.inf


def probe(item: Item) -> None:
    """Read one made-up answer, so that a metric that cannot be computed is refused before the first trial."""
    if callable(item.asked.lm_task.config.process_results):
        return  # a task's own function may reject an answer no model gave
    answers = [(-1.0 - index, False) for index in range(len(item.instances))]
    try:
        hand_over(item, answers, [""])
        results = filtered_results(item.asked, [item])[0]
        if item.asked.about.metric not in ROLLING:
            float(results[item.asked.about.metric])
    except Exception as error:
        raise EvaluatorError(
            f"metric `{item.asked.about.metric}` of task `{item.asked.about.name}` gives no number: "
            f"{type(error).__name__}: {error}"
        ) from error
