"""lm-eval's view of a model that stays while its weights change."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn

from evaluators.harness.items import Encoded
from evaluators.protocol import ScoringError


class ResidentLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model around a model that stays, with the tokens of known prompts kept.

    Tokens are all that is kept: the weights change in place between calls.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, batch_size: int, tokens: dict[str, list[int]]) -> None:
        self._tokens = tokens
        self.watch(lambda _done, _total: None, 0, {})
        with quiet("lm_eval.models.huggingface"):  # it warns that the model is not a string
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self._max_length = self.max_length  # lm-eval looks it up in the config three times for every request

    def watch(self, progress: Callable[[int, int], None], total: int, contexts: Mapping[str, str]) -> None:
        """Report the next requests to `progress`; `contexts` maps prompts to example ids, for messages."""
        self._report, self._total, self._done = progress, total, 0
        self._contexts, self._batch = contexts, list[str]()

    def _advance(self, count: int) -> None:
        self._done = min(self._total, self._done + count)
        self._report(self._done, self._total)

    def keep(self, strings: Sequence[str]) -> None:
        """Tokenize these strings once for all calls."""
        for string in strings:
            if string not in self._tokens:
                self._tokens[string] = super().tok_encode(string)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        if add_special_tokens is None and not options and string in self._tokens:
            return self._tokens[string]
        tokens: list[int] = super().tok_encode(string, add_special_tokens, **options)
        return tokens

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
        """Tokenize (context, continuation) pairs as lm-eval does, without asking the model."""
        # `TemplateLM.loglikelihood` encodes, then asks `_loglikelihood_tokens`, which here returns its input.
        stand_in = SimpleNamespace(
            tok_encode=self.tok_encode,
            prefix_token_id=self.prefix_token_id,
            _encode_pair=self._encode_pair,
            _loglikelihood_tokens=lambda requests, **_: requests,
        )
        self.keep([context.rstrip() for context, _ in pairs if context])  # trailing spaces go to the continuation
        requests = [SimpleNamespace(args=pair) for pair in pairs]
        encoded: list[Encoded] = TemplateLM.loglikelihood(stand_in, requests, disable_tqdm=True)
        return encoded

    def tok_batch_encode(self, strings: list[str], *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        self._batch = list(strings)
        encoded: tuple[Tensor, Tensor] = super().tok_batch_encode(strings, *args, **options)
        return encoded

    def _model_call(self, inps: Tensor, *args: Any, **options: Any) -> Tensor:
        logits: Tensor = super()._model_call(inps, *args, **options)
        self._advance(len(inps))
        return logits

    def _model_generate(self, context: Tensor, *args: Any, **options: Any) -> Tensor:
        """Generate, then raise `ScoringError` if any step's logits of a row had no finite maximum.

        A model of NaNs generates without complaint: argmax of NaNs is a token, and an answer is merely wrong.
        """
        broken = torch.zeros(len(context), dtype=torch.bool, device=context.device)

        def look(_module: nn.Module, _args: Any, output: Any) -> None:
            nonlocal broken
            rows = ~torch.isfinite(output.logits[:, -1].amax(dim=-1))  # amax keeps NaN; a masked -inf is no harm
            broken = broken | rows.view(len(broken), -1).any(dim=1)

        handle = self.model.register_forward_hook(look)
        try:
            tokens: Tensor = super()._model_generate(context, *args, **options)
        finally:
            handle.remove()
        rows = broken.nonzero().flatten().tolist()
        if rows:
            names = [self._contexts.get(self._batch[row], "unknown") for row in rows]
            raise ScoringError(
                f"logits are not finite while generating for {len(rows)} of a batch of {len(broken)} "
                f"examples, the first of them `{names[0]}`; the weights are broken."
            )
        self._advance(len(context))
        return tokens


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode again afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
