"""lm-eval's view of a model that stays while its weights change."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from torch import nn

from evaluators.harness.gen_options import as_prompt
from evaluators.harness.items import Encoded
from evaluators.lm import Continuation, Prompt
from evaluators.lm.token_store import stored_tokens, tokenizer_identity
from evaluators.meter import Meter
from evaluators.protocol import ScoringError
from evaluators.setting import scoring_engine


class ResidentLM(HFLM):  # type: ignore[misc]
    """An lm-eval model whose answers come from a scoring engine, usable wherever lm-eval takes a model.

    From lm-eval's Hugging Face model it takes what decides *what* is asked (special tokens, window, chat template), so
    that prompts agree to the token; how it is computed is ours. Tokens are all that is kept between calls: the weights
    change in place.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, batch_tokens: int | None = None) -> None:
        with quiet("lm_eval.models.huggingface"):  # it warns that the model is not a string
            super().__init__(pretrained=model, tokenizer=tokenizer)
        self._lm = scoring_engine(model, tokenizer, self.max_length, batch_tokens)
        self._max_length = self._lm.room  # lm-eval looks it up in the config three times for every request
        self._tokens: dict[str, list[int]] = {}
        self._prompts: dict[tuple[str, str, int], Prompt] = {}
        self.watch(lambda _done, _total: None, 0, {}, Meter())

    def watch(
        self, progress: Callable[[int, int], None], total: int, contexts: Mapping[str, str], meter: Meter
    ) -> None:
        """Report the next requests to `progress` and `meter`; `contexts` maps prompts to example ids, for messages."""
        self._report, self._total, self._done = progress, total, 0
        self._contexts, self._meter = contexts, meter

    def _advance(self, count: int) -> None:
        self._done = min(self._total, self._done + count)
        self._report(self._done, self._total)

    # ---- tokens

    def keep(self, strings: Sequence[str], folder: Path | None = None) -> None:
        """Tokenize these strings once for all calls, and once for all processes of this machine."""
        fresh = list(dict.fromkeys(string for string in strings if string not in self._tokens))
        identity = tokenizer_identity(self.tokenizer)
        named = identity and f"{identity}:{self.add_bos_token}:{self.prefix_token_id}"
        self._tokens |= zip(fresh, stored_tokens(fresh, named, self._encode_all, folder), strict=True)

    def _encode_all(self, strings: Sequence[str]) -> list[list[int]]:
        return [super(ResidentLM, self).tok_encode(string) for string in strings]

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
        requests = [SimpleNamespace(args=pair) for pair in pairs]
        encoded: list[Encoded] = TemplateLM.loglikelihood(stand_in, requests, disable_tqdm=True)
        return encoded

    def windows(self, text: str) -> list[Encoded]:
        """A text cut into windows that follow each other, each token predicted once (lm-eval's rolling windows)."""
        cut = utils.get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self._max_length, 1)
        return [(("", ""), *utils.make_disjoint_window(window)) for window in cut]

    # ---- what lm-eval asks

    def _loglikelihood_tokens(self, requests: Sequence[Encoded], **_: Any) -> list[tuple[float, bool]]:
        asked = [Continuation(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        answers = self._lm.loglikelihoods(asked, self._meter, self._advance)
        return [(answer.loglikelihood, answer.greedy) for answer in answers]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        windows = [self.windows(request.args[0]) for request in requests]
        answers = iter(self._loglikelihood_tokens([window for row in windows for window in row]))
        return [sum(next(answers)[0] for _ in row) for row in windows]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Raises `ScoringError` where the weights are broken: argmax of NaNs is a token, and a text merely wrong."""
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        asked_before: Counter[tuple[str, str]] = Counter()
        prompts = []
        for context, options in (request.args for request in requests):
            key = (context, repr(options))
            prompts.append(self._prompt(context, options, eos, (*key, asked_before[key])))
            asked_before[key] += 1
        answers = self._lm.generate(prompts, self._meter, self._advance)
        broken = [request for request, answer in zip(requests, answers, strict=True) if not answer.finite]
        if broken:
            name = self._contexts.get(broken[0].args[0], "unknown")
            raise ScoringError(
                f"logits are not finite while generating for {len(broken)} of {len(answers)} "
                f"examples, the first of them `{name}`; the weights are broken."
            )
        return [answer.text for answer in answers]

    def _prompt(self, context: str, options: Mapping[str, Any], eos: str, key: tuple[str, str, int]) -> Prompt:
        """The request as it was read the first time; the last part of `key` counts the times it was asked before."""
        if key not in self._prompts:
            tokens = tuple(self.tok_encode(context)) or (self.prefix_token_id,)
            own = getattr(self.model, "generation_config", None)
            self._prompts[key] = as_prompt(tokens, options, eos, self.max_gen_toks, own, key[-1])
        return self._prompts[key]


@contextmanager
def quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
