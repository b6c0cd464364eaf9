"""Choose the next token of each text from its logits."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from evaluators.lm.requests import Prompt, Sampling


def choose(logits: Tensor, prompts: Sequence[Prompt], written: Sequence[Sequence[int]]) -> Tensor:
    """The next token of every row of `logits` [rows, vocabulary], int64 [rows] on its device.

    `written` is what each row has generated so far. Greedy takes the first of equals.
    """
    penalised = [row for row, prompt in enumerate(prompts) if prompt.repetition_penalty != 1.0]
    for row in penalised:
        logits[row] = _penalised(logits[row], (*prompts[row].tokens, *written[row]), prompts[row].repetition_penalty)
    chosen = logits.argmax(dim=-1)
    for row, prompt in enumerate(prompts):
        if prompt.sampling is not None:
            chosen[row] = _drawn(logits[row].float(), prompt.sampling, draw(prompt.sampling.seed, len(written[row])))
    return chosen


def draw(seed: int, step: int) -> float:
    """A number in [0, 1) that belongs to a prompt's seed and a step: no generator's state to carry along."""
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _drawn(logits: Tensor, how: Sampling, point: float) -> int:
    """The token at `point` of the cumulative distribution, tokens from the most likely to the least.

    Temperature, then top-k, top-p and min-p each on what the one before left, as transformers orders them.
    """
    ordered, tokens = torch.sort(logits / how.temperature, descending=True, stable=True)
    if how.top_k:
        ordered, tokens = ordered[: how.top_k], tokens[: how.top_k]
    chances = torch.softmax(ordered, dim=-1)
    if how.top_p is not None and how.top_p < 1:
        before = chances.cumsum(-1) - chances
        chances = torch.where(before < how.top_p, chances, 0.0)
        chances /= chances.sum()
    if how.min_p is not None:
        chances = torch.where(chances >= how.min_p * chances[0], chances, 0.0)
        chances /= chances.sum()
    place = torch.searchsorted(chances.cumsum(-1), point, right=True).clamp(max=int(chances.count_nonzero()) - 1)
    return int(tokens[place])


def _penalised(logits: Tensor, present: Sequence[int], penalty: float) -> Tensor:
    """CTRL, arXiv 1909.05858, section 4.1, in the form that also works for negative logits (transformers)."""
    tokens = torch.tensor(sorted(dict.fromkeys(present)), device=logits.device)
    own = logits[tokens]
    return logits.index_put((tokens,), torch.where(own < 0, own * penalty, own / penalty))
