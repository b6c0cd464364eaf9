"""Everything a causal language model is asked, in one place that stays while its weights change."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from evaluators.lm.forward import Forward
from evaluators.lm.generation import Writer
from evaluators.lm.likelihood import Questions, answer, prepare
from evaluators.lm.memory import backing_off, most_reads, text_slots, token_budget
from evaluators.lm.plain_generation import write_plainly
from evaluators.lm.requests import Continuation, Generated, Likelihood, Prompt
from evaluators.meter import Meter

_KEPT = 16  # sets of requests whose batches are remembered: splits, rounds of a race


class LanguageModel:
    """A resident model and its tokenizer. Its weights may change between calls; what is kept depends on tokens alone.

    `room` is the length of the model's window in tokens. `batch_tokens` bounds the tokens of a batch, sized to memory
    where it is None; where memory runs out all the same, a call is repeated with half of it.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, room: int, batch_tokens: int | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.room = room
        self._batch_tokens = batch_tokens
        self._forward = Forward(model)
        self._prepared: dict[tuple[tuple[Continuation, ...], int, float], list[Questions]] = {}

    @torch.no_grad()
    def loglikelihoods(
        self, requests: Sequence[Continuation], meter: Meter | None = None, done: Callable[[int], None] = lambda _: None
    ) -> list[Likelihood]:
        """One answer per request, in their order; `done` hears how many requests each batch answers."""
        if not requests:
            return []
        meter = meter or Meter()

        def call(share: float) -> list[Likelihood]:
            prepared = self._questions(tuple(requests), share)
            return answer(self._forward, prepared, len(requests), meter, done)

        with meter.stage("forward"):
            return backing_off(call)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], meter: Meter | None = None, done: Callable[[int], None] = lambda _: None
    ) -> list[Generated]:
        """One answer per prompt, in their order; `done` hears how many prompts each finished text answers."""
        if not prompts:
            return []
        meter = meter or Meter()
        longest = max(min(self.room, len(prompt.tokens) + prompt.max_tokens) for prompt in prompts)

        def call(share: float) -> list[Generated]:
            texts = max(1, int(share * text_slots(self._config, self._forward.device, self._forward.dtype, longest)))
            if self._forward.way != "trees":
                return write_plainly(
                    self._forward, self.tokenizer, self.end_tokens(), self.room, texts, prompts, meter, done
                )
            writer = Writer(self._forward, self.tokenizer, self.end_tokens(), self.room, texts, self._budget(share))
            return writer.write(prompts, meter, done)

        with meter.stage("generation"):
            return backing_off(call)

    def end_tokens(self) -> list[int]:
        """The tokens that end a text: those of the model's generation config, and the tokenizer's own."""
        found = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        ends = found if isinstance(found, list) else [found]
        return [int(end) for end in dict.fromkeys([*ends, self.tokenizer.eos_token_id]) if end is not None]

    @property
    def _config(self) -> Any:
        return self._forward.config

    def _budget(self, share: float) -> int:
        whole = self._batch_tokens or token_budget(self._config, self._forward.device, self._forward.dtype)
        return max(1, int(share * whole))

    def _questions(self, requests: tuple[Continuation, ...], share: float) -> list[Questions]:
        crossover = self._forward.crossover()
        key = (requests, self._budget(share), crossover)
        if key not in self._prepared:
            while len(self._prepared) >= _KEPT:
                del self._prepared[next(iter(self._prepared))]
            reads = most_reads(self._forward.vocabulary, self._forward.dtype)
            self._prepared[key] = prepare(requests, self.room, crossover, key[1], reads)
        return self._prepared[key]
