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
from evaluators.lm.teacher import Distributions, after_every_token, divergences, likeliest
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

    The example's loss is the sum over its parts. With a `teacher`, `loss` is given how far the model is from it, in
    nats, in place of log-likelihoods: the sum over the one request's places.
    """

    example: str
    requests: tuple[Continuation, ...]
    loss: Loss
    teacher: Distributions | None = None


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


def like_teacher(example: str, prompt: Tokens, teacher: Distributions) -> Part:
    """KL(teacher || model) over the next token, the mean over the places of a prompt."""
    places = len(teacher.tokens)
    return Part(example, (after_every_token(prompt),), lambda values: values.sum() / places, teacher)


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

    @torch.no_grad()
    def distributions(self, prompts: Sequence[Tokens], meter: Meter) -> list[Distributions]:
        """What the model would say after every token of each prompt, as far as its window reaches."""
        with meter.stage("forward"), evaluating(self.model):
            limits, requests = self._limits(), [after_every_token(prompt) for prompt in prompts]
            found: dict[int, Distributions] = {}
            for questions in prepare(requests, limits.room, limits.crossover, limits.tokens, limits.reads):
                here = questions.to(self._forward.device)
                rows: dict[int, tuple[Tensor, Tensor]] = {}
                for first, logits in self._forward.read(here.batch, here.places, meter, "forward"):
                    inside = _inside(here, first, logits).nonzero().flatten()
                    each = likeliest(logits[here.read[inside] - first])
                    rows |= zip(inside.tolist(), zip(*(one.cpu() for one in each), strict=True), strict=True)
                for request, places in _by_request(here).items():
                    tokens, logs = zip(*(rows[place] for place in places), strict=True)
                    found[request] = Distributions(torch.stack(tokens), torch.stack(logs))
        return [found[request] for request in range(len(prompts))]

    def _losses(self, parts: list[Part], limits: _Limits, meter: Meter, share: float) -> tuple[Tensor, list[Part]]:
        """The losses of the first parts, float64, with what a backward pass needs; `share` says how many are tried.

        Memory that runs out here is no loss: nothing has been added to any gradient.
        """
        parts = parts[: max(1, int(share * len(parts)))]
        requests = [request for part in parts for request in part.requests]
        teachers = [part.teacher for part in parts for _ in part.requests]
        with torch.enable_grad():
            values = iter(self._values(requests, teachers, limits, meter).unbind())
            own = [torch.stack([next(values) for _ in part.requests]) for part in parts]
            return torch.stack([part.loss(values) for part, values in zip(parts, own, strict=True)]), parts

    def _values(
        self, requests: Sequence[Continuation], teachers: Sequence[Distributions | None], limits: _Limits, meter: Meter
    ) -> Tensor:
        """float64 [requests]: log-likelihoods, or divergences from a teacher, summed over each continuation."""
        device = self._forward.device
        total = torch.zeros(len(requests), dtype=torch.float64, device=device)
        for questions in prepare(requests, limits.room, limits.crossover, limits.tokens, limits.reads):
            here = questions.to(device)
            for first, logits in self._forward.read(here.batch, here.places, meter, "forward"):
                request, values = _predictions(here, first, logits, teachers)
                total = total.index_add(0, request, values)
                if any(teachers):
                    request, values = _departures(here, first, logits, teachers)
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
    if device.type == "cuda":
        return max(_LEAST_TOKENS, budget // _about(config)[0])
    return max(_LEAST_TOKENS, min(budget, _CPU_BYTES // _bytes_of_a_token(config, dtype)))


def backward_bytes(config: Any, dtype: torch.dtype, batch_tokens: int | None = None, logits: bool = True) -> int:
    """What a backward pass takes on a CPU beyond weights: activations of all layers, and `logits` with theirs.

    An example that has more tokens than one pass should is not thought of.
    """
    tokens = tokens_at_once(config, torch.device("cpu"), dtype)
    tokens = min(tokens, batch_tokens or tokens)
    vocabulary = getattr(_text(config), "vocab_size", 0) if logits else 0
    reads = min(tokens, most_reads(max(1, vocabulary), dtype))
    kept = 2 * dtype.itemsize + 2 * torch.float32.itemsize  # logits, the same in float32, and the gradient of each
    return tokens * _bytes_of_a_token(config, dtype) + reads * vocabulary * kept


def _bytes_of_a_token(config: Any, dtype: torch.dtype) -> int:
    """Its activations in all layers."""
    layers, hidden, width = _about(config)
    return layers * (4 * width + 12 * hidden) * dtype.itemsize


def _about(config: Any) -> tuple[int, int, int]:
    """Layers, hidden size and width of the MLP; something small where a config has other names."""
    text = _text(config)
    hidden = getattr(text, "hidden_size", 0) or 1
    return getattr(text, "num_hidden_layers", 0) or 1, hidden, getattr(text, "intermediate_size", 0) or 4 * hidden


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


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


def _inside(questions: Questions, first: int, logits: Tensor) -> Tensor:
    """Which predictions a piece of logits is for, bool [predictions]."""
    return (questions.read >= first) & (questions.read < first + len(logits))


def _by_request(questions: Questions) -> dict[int, list[int]]:
    """Every request's predictions in the order of its tokens."""
    found: dict[int, list[int]] = {}
    for place, request in enumerate(questions.request.tolist()):
        found.setdefault(request, []).append(place)
    return found


def _predictions(
    questions: Questions, first: int, logits: Tensor, teachers: Sequence[Distributions | None]
) -> tuple[Tensor, Tensor]:
    """Which requests' tokens a piece of logits predicts, int64, and their log-probabilities, float64."""
    plain = torch.tensor([teacher is None for teacher in teachers], device=questions.request.device)
    inside = _inside(questions, first, logits) & plain[questions.request]
    reads, targets = questions.read[inside] - first, questions.target[inside]
    scale = torch.logsumexp(logits.float(), dim=-1)
    return questions.request[inside], (logits[reads, targets].float() - scale[reads]).double()


def _departures(
    questions: Questions, first: int, logits: Tensor, teachers: Sequence[Distributions | None]
) -> tuple[Tensor, Tensor]:
    """Which requests with a teacher a piece of logits is for, int64, and how far it is from that, float64."""
    inside = _inside(questions, first, logits).tolist()
    tokens, logs, reads, asked = [], [], [], []
    for request, places in _by_request(questions).items():
        teacher = teachers[request]
        for place, prediction in enumerate(places if teacher is not None else []):
            if inside[prediction] and teacher is not None:
                tokens.append(teacher.tokens[place])
                logs.append(teacher.logs[place])
                reads.append(prediction)
                asked.append(request)
    if not reads:
        return questions.request[:0], logits.new_zeros(0, dtype=torch.float64)
    chosen = questions.read[torch.tensor(reads, device=logits.device)] - first
    values = divergences(torch.stack(tokens).to(logits.device), torch.stack(logs).to(logits.device), logits[chosen])
    return torch.tensor(asked, device=logits.device), values
