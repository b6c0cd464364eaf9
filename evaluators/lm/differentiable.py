"""Log-likelihoods of a causal language model that gradients flow through."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.choices import comparable
from evaluators.lm.forest import plant
from evaluators.lm.forward import Forward, timed
from evaluators.lm.likelihood import Questions, prepare
from evaluators.lm.memory import backing_off, most_reads, token_budget
from evaluators.lm.requests import Continuation, Tokens
from evaluators.meter import Meter
from evaluators.modes import evaluating
from evaluators.protocol import EvaluatorError
from evaluators.twins import check_finite

Loss = Callable[[Tensor], Tensor]
"""Log-likelihoods in nats, float64 [requests], to a number."""

_CPU_BYTES = 2 << 30  # of activations that wait for the backward pass: a machine runs several workers
_LEAST_TOKENS = 128


@dataclass(frozen=True)
class Part:
    """Requests that have to be answered in one pass, since `loss` compares them: an example's, or a part of them.

    The example's loss is the sum over its parts.
    """

    example: str
    requests: tuple[Continuation, ...]
    loss: Loss


def per_token(example: str, requests: Sequence[Continuation]) -> list[Part]:
    """The negative log-likelihood of a token, the mean over all of the requests' continuations."""
    tokens = sum(len(request.continuation) for request in requests)
    return [Part(example, (request,), lambda values: -values.sum() / tokens) for request in requests]


# Minus the logarithm of an answer's probability rises without end where a model cannot give it, so hopeless examples
# would rule the gradient; the probability itself is flat there and the hopeless are never learned. Between both:
# the mean probability of a token to the power of at most `POWER` tokens, never less than about `FLOOR`. On the zoos of
# benchmarks/search it beat both ends by up to 2 points of exact match.
POWER, FLOOR, SLOPE = 3, 0.1, 0.5


def written(example: str, request: Continuation) -> list[Part]:
    """-`SLOPE` log(p + `FLOOR`), where p is the mean probability of a token of the answer to the power of its length.

    The mean is geometric; of answers longer than `POWER` tokens the power is `POWER`.
    """
    tokens = len(request.continuation)

    def loss(values: Tensor) -> Tensor:
        probability = (values.sum() / tokens * min(POWER, tokens)).exp()
        return -SLOPE * torch.log(probability + FLOOR)

    return [Part(example, (request,), loss)]


def among_choices(
    example: str, requests: Sequence[Continuation], metric: str, choices: Sequence[str], gold: Sequence[int]
) -> list[Part]:
    """Minus the logarithm of `gold_probability`, of scores that are made `comparable` as the metric makes them."""

    def loss(values: Tensor) -> Tensor:
        each: Any = list(values.unbind())
        scores = torch.stack(
            [torch.as_tensor(score, dtype=values.dtype) for score in comparable(metric, each, choices)]
        )
        return torch.logsumexp(scores, 0) - torch.logsumexp(scores[list(gold)], 0)

    return [Part(example, tuple(requests), loss)]


@dataclass(frozen=True)
class _Limits:
    """The model's window, the crossover of `plant`, and the tokens and read places of one backward pass."""

    room: int
    crossover: float
    tokens: int
    reads: int


class DifferentiableLM:
    """A resident model asked for losses and their gradients; its weights may change between calls.

    Beginnings that requests share are computed once and logits only where a token is predicted, as for scores.
    `room` is the length of the model's window in tokens. `batch_tokens` bounds the tokens of one backward pass from
    above. On a GPU, sums are made in any order and the last bits of a gradient differ from run to run.
    """

    def __init__(self, model: nn.Module, room: int, batch_tokens: int | None = None) -> None:
        """Raises `EvaluatorError` for a model that lives in another engine."""
        if hasattr(model, "scoring_engine"):
            raise EvaluatorError("a gradient needs a model in torch, but this one is in vLLM; set `engine: torch`.")
        self.model = model
        self.room = room
        self._batch_tokens = batch_tokens
        self._forward = Forward(model)

    def backward(self, parts: Sequence[Part], factors: Mapping[str, float], meter: Meter) -> dict[str, float]:
        """Each example's loss; the gradient of their sum, each times its factor, is added to the parameters.

        Raises `ScoringError` where a loss is not finite, before the backward pass of its example.
        """
        losses: dict[str, float] = {}
        with meter.stage("forward"), evaluating(self.model):
            limits = self._limits()
            for chunk in _chunks(parts, limits):
                while chunk:
                    values, done = backing_off(partial(self._losses, chunk, limits, meter))
                    for part, value in zip(done, values.tolist(), strict=True):
                        losses[part.example] = losses.get(part.example, 0.0) + check_finite(part.example, value)
                    weights = torch.tensor([factors[part.example] for part in done], dtype=values.dtype)
                    with timed(meter, "forward", 0, self._forward.device):
                        torch.autograd.backward(values @ weights.to(values.device))
                    del values
                    chunk = chunk[len(done) :]
        return losses

    def _losses(self, parts: list[Part], limits: _Limits, meter: Meter, share: float) -> tuple[Tensor, list[Part]]:
        """The losses of the first parts, float64, with what a backward pass needs; `share` says how many are tried.

        Memory that runs out here is no loss: nothing has been added to any gradient.
        """
        parts = parts[: max(1, int(share * len(parts)))]
        requests = [request for part in parts for request in part.requests]
        with torch.enable_grad():
            values = iter(self._loglikelihoods(requests, limits, meter).unbind())
            own = [torch.stack([next(values) for _ in part.requests]) for part in parts]
            return torch.stack([part.loss(values) for part, values in zip(parts, own, strict=True)]), parts

    def _loglikelihoods(self, requests: Sequence[Continuation], limits: _Limits, meter: Meter) -> Tensor:
        """float64 [requests], summed over each continuation."""
        device = self._forward.device
        total = torch.zeros(len(requests), dtype=torch.float64, device=device)
        for questions in prepare(requests, limits.room, limits.crossover, limits.tokens, limits.reads):
            here = questions.to(device)
            for first, logits in self._forward.read(here.batch, here.places, meter, "forward"):
                request, values = _predictions(here, first, logits)
                total = total.index_add(0, request, values)
        return total

    @torch.no_grad()
    def _limits(self) -> _Limits:
        forward = self._forward
        tokens = tokens_at_once(forward.config, forward.device, forward.dtype)
        tokens = max(1, min(tokens, self._batch_tokens or tokens))
        reads = most_reads(forward.vocabulary, forward.dtype)
        return _Limits(self.room, forward.crossover(), tokens, reads)  # tries out how the model is run


def tokens_at_once(config: Any, device: torch.device, dtype: torch.dtype) -> int:
    """Tokens of one backward pass: what memory holds of all layers' activations, which wait until it comes to them.

    Few passes are better than many: each multiplies every gradient with every direction.
    """
    budget = token_budget(config, device, dtype)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers, hidden = getattr(text, "num_hidden_layers", 0) or 1, getattr(text, "hidden_size", 0) or 1
    if device.type == "cuda":
        return max(_LEAST_TOKENS, budget // layers)
    width = getattr(text, "intermediate_size", 0) or 4 * hidden
    each = layers * (4 * width + 12 * hidden) * dtype.itemsize
    return max(_LEAST_TOKENS, min(budget, _CPU_BYTES // each))


def _chunks(parts: Sequence[Part], limits: _Limits) -> list[list[Part]]:
    """Parts that are answered together: those that share a beginning side by side, long ones first.

    A chunk ends before it exceeds the limits; a part that exceeds them alone is a chunk of its own.
    """
    rows = plant([_read(part.requests[0], limits) for part in parts], limits.crossover, limits.tokens)
    rows.sort(key=lambda row: -len(row.tokens))
    chunks: list[list[Part]] = []
    for part in (parts[index] for row in rows for index in row.paths):
        if not chunks or not _fit([*chunks[-1], part], limits):
            chunks.append([])
        chunks[-1].append(part)
    return chunks


def _fit(parts: Sequence[Part], limits: _Limits) -> bool:
    requests = [request for part in parts for request in part.requests]
    if sum(len(request.continuation) for request in requests) > limits.reads:
        return False
    distinct = list(dict.fromkeys(_read(request, limits) for request in requests))
    return sum(len(row.tokens) for row in plant(distinct, limits.crossover, limits.tokens)) <= limits.tokens


def _read(request: Continuation, limits: _Limits) -> Tokens:
    """What the model reads of a request; see `prepare`."""
    return (request.context + request.continuation)[-(limits.room + 1) : -1]


def _predictions(questions: Questions, first: int, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Which requests' tokens a piece of logits predicts, int64, and their log-probabilities, float64."""
    inside = (questions.read >= first) & (questions.read < first + len(logits))
    reads, targets = questions.read[inside] - first, questions.target[inside]
    scale = torch.logsumexp(logits.float(), dim=-1)
    return questions.request[inside], (logits[reads, targets].float() - scale[reads]).double()
