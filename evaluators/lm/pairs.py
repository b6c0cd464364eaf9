"""How likely a model finds texts and answers, in the tokens lm-eval's Hugging Face model would make of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.lm.language_model import LanguageModel
from evaluators.lm.requests import Continuation, Likelihood, Tokens
from evaluators.lm.token_store import stored_tokens, tokenizer_identity
from evaluators.meter import Meter
from evaluators.modes import evaluating
from evaluators.protocol import EvaluatorError, ScoringError


class Encoder:
    """Tokens by a job's tokenizer, made once for all processes of a machine (`stored_tokens`).

    `prefix` stands before what has nothing before it: the tokenizer's bos token, else its eos token. Raises
    `EvaluatorError` where it has neither.
    """

    def __init__(self, tokenizer: Any, folder: Path | None = None) -> None:
        prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if prefix is None:
            raise EvaluatorError(
                "the first token of a text is predicted from the tokenizer's bos token, or else its eos token, but it "
                "has neither. Name one in the tokenizer_config.json of the base model."
            )
        self.prefix = int(prefix)
        self._prefix_text: str = tokenizer.decode(self.prefix)
        self._tokenizer = tokenizer
        self._folder = folder

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text with the special tokens the tokenizer adds; where it begins with the prefix, without them."""
        distinct = list(dict.fromkeys(texts))
        identity = tokenizer_identity(self._tokenizer)
        named = identity and f"{identity}:{self.prefix}"
        rows = stored_tokens(distinct, named, self._encode, self._folder)
        tokens = dict(zip(distinct, map(tuple, rows), strict=True))
        return [tokens[text] for text in texts]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """(context, continuation) strings as they are asked. A continuation may come out without a token.

        Both are encoded as one text, and the continuation is what follows as many tokens as the context has alone, so
        that words are cut as in running text. Spaces that end the context count to the continuation: tokens begin
        with a space, they do not end with one.
        """
        tokens = self.texts([text for context, answer in pairs for text in (context.rstrip(), context + answer)])
        return [
            Continuation(context or (self.prefix,), whole[len(context) :])
            for context, whole in zip(tokens[::2], tokens[1::2], strict=True)
        ]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            self._tokenizer.encode(text, add_special_tokens=False)
            if text.startswith(self._prefix_text)
            else self._tokenizer.encode(text)
            for text in texts
        ]


def likelihoods(
    lm: LanguageModel, asked: Mapping[str, Sequence[Continuation]], meter: Meter
) -> dict[str, list[Likelihood]]:
    """The answers to each example's requests, by its id. The model is in eval mode meanwhile.

    Raises `ScoringError` where a log-likelihood is not finite, naming the example.
    """
    with evaluating(lm.model):
        answers = iter(lm.loglikelihoods([request for requests in asked.values() for request in requests], meter))
    found = {name: [next(answers) for _ in requests] for name, requests in asked.items()}
    for name, rows in found.items():
        for row in rows:
            if not math.isfinite(row.loglikelihood):
                raise ScoringError(
                    f"log-likelihood of example `{name}` is {row.loglikelihood}; the weights are broken."
                )
    return found
