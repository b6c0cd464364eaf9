"""Log-likelihoods of continuations, each shared beginning computed once and logits only where a token is predicted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluators.lm.batches import Batch, gather
from evaluators.lm.forest import Row, plant
from evaluators.lm.forward import Forward
from evaluators.lm.requests import Continuation, Likelihood, Tokens
from evaluators.meter import Meter

Done = Callable[[int], None]


@dataclass(frozen=True)
class Questions:
    """A batch, the places it is read at, and which read predicts which token of which request.

    `places` is int64 [reads]; `read`, `target` and `request` are int64 [predictions].
    """

    batch: Batch
    places: Tensor
    read: Tensor
    target: Tensor
    request: Tensor
    finished: int

    def to(self, device: torch.device) -> "Questions":
        """The same on another device."""
        if self.places.device == device:
            return self
        places, read, target, request = (one.to(device) for one in (self.places, self.read, self.target, self.request))
        return Questions(self.batch.to(device), places, read, target, request, self.finished)


def prepare(requests: Sequence[Continuation], room: int, crossover: float, budget: int, reads: int) -> list[Questions]:
    """The batches that answer the requests, for a model whose window holds `room` tokens.

    A request too long for the window loses its beginning, as in lm-eval. The last token of a continuation is predicted,
    not read. `budget` and `reads` bound the tokens and the read places of a batch (see `gather`).
    """
    sequences: dict[Tokens, list[int]] = {}
    for index, (context, continuation) in enumerate(requests):
        sequences.setdefault((context + continuation)[-(room + 1) : -1], []).append(index)
    members = list(sequences.values())
    lengths = [len(request.continuation) for request in requests]

    def places_read(row: Row) -> int:
        return sum(max(lengths[index] for index in members[member]) for member in row.paths)

    rows = plant(list(sequences), crossover, budget)
    return [_questions(batch, requests, members) for batch in gather(rows, budget, 1, places_read, reads)]


def _questions(batch: Batch, requests: Sequence[Continuation], members: Sequence[Sequence[int]]) -> Questions:
    places: dict[int, int] = {}
    read: list[int] = []
    target: list[int] = []
    asked: list[int] = []
    finished = 0
    for number, row in enumerate(batch.rows):
        for member, path in row.paths.items():
            for index in members[member]:
                finished += 1
                continuation = requests[index].continuation[-len(path) :]
                flat = [number * batch.length + place for place in path[-len(continuation) :]]
                read += [places.setdefault(place, len(places)) for place in flat]
                target += continuation
                asked += [index] * len(continuation)
    columns = (torch.tensor(column) for column in (list(places), read, target, asked))
    placed, reads, targets, numbers = columns
    return Questions(batch, placed, reads, targets, numbers, finished)


def answer(
    forward: Forward, prepared: Sequence[Questions], requests: int, meter: Meter, done: Done
) -> list[Likelihood]:
    """One answer per request, in their order. `done` hears how many requests each batch finished."""
    total = torch.zeros(requests, dtype=torch.float64)
    missed = torch.zeros(requests, dtype=torch.long)
    for questions in prepared:
        here = questions.to(forward.device)
        values, hits = _predictions(forward, here, meter)
        total.index_add_(0, questions.request, values.double().cpu())
        missed.index_add_(0, questions.request, (~hits).long().cpu())
        done(questions.finished)
    return [Likelihood(value, miss == 0) for value, miss in zip(total.tolist(), missed.tolist(), strict=True)]


def _predictions(forward: Forward, questions: Questions, meter: Meter) -> tuple[Tensor, Tensor]:
    """The log-probability of every target, float32 [predictions], and whether it is the most likely token."""
    values = torch.empty(len(questions.read), device=forward.device)
    hits = torch.empty(len(questions.read), dtype=torch.bool, device=forward.device)
    for first, logits in forward.read(questions.batch, questions.places, meter, "forward"):
        inside = (questions.read >= first) & (questions.read < first + len(logits))
        reads, targets = questions.read[inside] - first, questions.target[inside]
        scale = torch.logsumexp(logits.float(), dim=-1)
        values[inside] = logits[reads, targets].float() - scale[reads]
        hits[inside] = logits.argmax(dim=-1)[reads] == targets
    return values, hits
