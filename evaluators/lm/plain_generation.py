"""Write texts with transformers' own `generate`, for models whose layers take no mask or cache of ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig

from evaluators.lm.decoding import choose
from evaluators.lm.forward import Forward, timed
from evaluators.lm.requests import Generated, Prompt
from evaluators.lm.stops import Stops
from evaluators.meter import Meter


def write_plainly(
    forward: Forward,
    tokenizer: Any,
    end: Sequence[int],
    room: int,
    texts: int,
    prompts: Sequence[Prompt],
    meter: Meter,
    done: Callable[[int], None],
) -> list[Generated]:
    """One answer per prompt. Prompts of one length share a batch: such models cannot be trusted with padding."""
    answers: dict[int, Generated] = {}
    cut = [prompt._replace(tokens=prompt.tokens[-(room - prompt.max_tokens) :]) for prompt in prompts]
    order = sorted(range(len(cut)), key=lambda index: (len(cut[index].tokens), cut[index].until))
    while order:
        first = cut[order[0]]
        alike = [i for i in order if len(cut[i].tokens) == len(first.tokens)][:texts]
        order = [index for index in order if index not in set(alike)]
        found = _write([cut[index] for index in alike], forward, tokenizer, frozenset(end), meter)
        answers.update(zip(alike, found, strict=True))
        done(len(alike))
    return [answers[index] for index in range(len(prompts))]


def _write(
    prompts: Sequence[Prompt], forward: Forward, tokenizer: Any, end: frozenset[int], meter: Meter
) -> list[Generated]:
    """A finished row goes on unheard until the last one is done."""
    chooser = _Chooser(prompts, [Stops(tokenizer, prompt.until) for prompt in prompts], end)
    tokens = torch.tensor([prompt.tokens for prompt in prompts], device=forward.device)
    longest = max(prompt.max_tokens for prompt in prompts)
    config: Any = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=longest, pad_token_id=0, use_cache=True
    )
    model: Any = forward.model
    with timed(meter, "generation", 0, forward.device):
        model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=config,
            logits_processor=[chooser.scores],
            stopping_criteria=[chooser.finished],
        )
    meter.tokens["generation"] = meter.tokens.get("generation", 0) + tokens.numel() + sum(map(len, chooser.written))
    return chooser.answers(tokenizer)


@dataclass
class _Chooser:
    """Chooses in place of `generate`, as the other way of writing does, and keeps what was chosen."""

    prompts: Sequence[Prompt]
    stops: Sequence[Stops]
    end: frozenset[int]

    def __post_init__(self) -> None:
        self.written: list[list[int]] = [[] for _ in self.prompts]
        self.ended: list[Literal["stop", "end", "length"] | None] = [None] * len(self.prompts)
        self.finite = [True] * len(self.prompts)

    def scores(self, _tokens: Tensor, logits: Tensor) -> Tensor:
        """A logits processor: everything but the chosen token is impossible."""
        sound = torch.isfinite(logits.amax(dim=-1)).tolist()
        chosen = choose(logits, self.prompts, self.written)
        for row, token in enumerate(chosen.tolist()):
            if self.ended[row] is None:
                self.written[row].append(token)
                self.finite[row] &= sound[row]
                self.ended[row] = _end(token, self.written[row], self.prompts[row], self.stops[row], self.end)
        return torch.full_like(logits, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def finished(self, tokens: Tensor, _scores: Any, **_: Any) -> Tensor:
        """A stopping criterion: true for every row once all are done, so that the batch keeps its shape."""
        return torch.full((len(tokens),), all(self.ended), device=tokens.device)

    def answers(self, tokenizer: Any) -> list[Generated]:
        found = []
        for written, stop, ended, finite in zip(self.written, self.stops, self.ended, self.finite, strict=True):
            text = stop.cut(tokenizer.decode(written, skip_special_tokens=True))
            found.append(Generated(tuple(written), text, ended or "length", finite))
        return found


def _end(
    token: int, written: list[int], prompt: Prompt, stops: Stops, end: frozenset[int]
) -> Literal["stop", "end", "length"] | None:
    if token in end:
        return "end"
    if stops.reached(written):
        return "stop"
    return "length" if len(written) >= prompt.max_tokens else None
