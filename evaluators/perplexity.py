"""Perplexity of a user's texts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from evaluators.data import FieldName, text_of
from evaluators.documents import deal, pick
from evaluators.evaluator_spec import CAUSAL_LM, OneTaskSpec
from evaluators.meter import Meter
from evaluators.protocol import Evaluator, EvaluatorError, Example, Outcome, ScoringError, Task
from evaluators.setting import Setting
from evaluators.shares import AtLeastOne
from evaluators.twins import factors, turned_away

if TYPE_CHECKING:
    from torch import nn

    from evaluators.lm.differentiable import DifferentiableLM
    from evaluators.lm.requests import Tokens
    from evaluators.splits import Counts

Metric = Literal["bits_per_byte", "byte_perplexity", "word_perplexity", "token_perplexity"]

# What a metric is per, counted as lm-eval counts it.
_SIZES: dict[Metric, Callable[[str, Tokens], int]] = {
    "bits_per_byte": lambda text, _: len(text.encode("utf-8")),
    "byte_perplexity": lambda text, _: len(text.encode("utf-8")),
    "word_perplexity": lambda text, _: len(re.split(r"\s+", text)),
    "token_perplexity": lambda _, tokens: len(tokens),
}


class PerplexitySpec(OneTaskSpec):
    """How well a merge predicts texts. Each document counts once, whatever its length; lower is better.

    `field` is the text's field in every document. A document is known by its text alone: other fields do not count,
    so a text that comes twice is kept once. `batch_tokens` bounds the tokens the model is given at once; it is sized to
    memory where None. `direction: maximize` makes the texts something to forget.
    """

    scores: ClassVar[str | None] = CAUSAL_LM

    evaluator: Literal["perplexity"] = "perplexity"
    field: FieldName = "text"
    metric: Metric = "bits_per_byte"
    batch_tokens: AtLeastOne | None = None

    def open(self, setting: Setting) -> Evaluator:
        return PerplexityEvaluator(self, setting)


@dataclass(frozen=True)
class _Text:
    """A document's tokens, and its length in the unit of the metric."""

    tokens: Tokens
    size: int


class PerplexityEvaluator:
    """Texts cut into windows that follow each other, each token predicted once, as lm-eval's rolling tasks do.

    The log-likelihood is that of every token the tokenizer makes of a text, a bos token it adds included; `smooth` is
    the probability of a token, exp of the mean log-probability.
    """

    def __init__(self, spec: PerplexitySpec, setting: Setting) -> None:
        from evaluators.lm.pairs import Encoder

        self._spec = spec
        self._setting = setting
        documents = [{"text": text_of(document, spec.field, spec.name)} for document in spec.data.documents()]
        self._dealt = deal(spec.name, documents, setting.splits, spec.limit)
        encoder = Encoder(setting.tokenizer)
        self._prefix = encoder.prefix
        texts = {name: str(document["text"]) for name, document in self._dealt.documents.items()}
        tokens = dict(zip(texts, encoder.texts(list(texts.values())), strict=True))
        for name in texts:
            if not tokens[name]:
                raise EvaluatorError(
                    f"example `{name}` must have a token to be predicted, but the tokenizer makes none of "
                    f"{texts[name]!r}. Take the document out."
                )
        size = _SIZES[spec.metric]
        self._differentiable: DifferentiableLM | None = None
        self._texts = {name: _Text(tokens[name], size(text, tokens[name])) for name, text in texts.items()}

    def tasks(self) -> list[Task]:
        return [self._spec.as_task(self._spec.name, self._spec.metric, higher_is_better=False)]

    def examples(self) -> list[Example]:
        return self._dealt.examples

    def counts(self) -> dict[str, Counts]:
        return {self._spec.name: self._dealt.counts}

    def check_model(self, model: nn.Module) -> None:
        """Any window will do."""

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """See `Evaluator.score`."""
        from evaluators.lm import rolling
        from evaluators.lm.pairs import likelihoods

        meter = meter or Meter()
        lm = self._setting.language_model(model, self._spec.batch_tokens)
        texts = pick(self._texts, ids)
        windows = {name: rolling(text.tokens, self._prefix, lm.room) for name, text in texts.items()}
        answers = likelihoods(lm, windows, meter)
        with meter.stage("metrics"):
            outcomes = {
                name: self._outcome(name, text, math.fsum(answer.loglikelihood for answer in answers[name]))
                for name, text in texts.items()
            }
        return [outcomes[name] for name in ids]

    def twins(self) -> dict[str, str | None]:
        """See `Differentiable.twins`."""
        return {task.name: turned_away(task) for task in self.tasks()}

    def backward(
        self, model: nn.Module, ids: Sequence[str], scales: Mapping[str, float], meter: Meter | None = None
    ) -> list[float]:
        """See `Differentiable.backward`: the negative log-likelihood of a token, minus the logarithm of `smooth`."""
        from evaluators.lm import rolling, window_of
        from evaluators.lm.differentiable import DifferentiableLM, per_token

        texts = pick(self._texts, ids)
        counted = factors(ids, scales, self.twins())
        if self._differentiable is None or self._differentiable.model is not model:
            room = window_of(model, self._setting.tokenizer)
            self._differentiable = DifferentiableLM(model, room, self._spec.batch_tokens)
        room = self._differentiable.room
        parts = [
            part for name, text in texts.items() for part in per_token(name, rolling(text.tokens, self._prefix, room))
        ]
        losses = self._differentiable.backward(parts, counted, meter or Meter())
        return [losses[name] for name in ids]

    def _outcome(self, name: str, text: _Text, loglikelihood: float) -> Outcome:
        nats = -loglikelihood / text.size
        try:
            metric = nats / math.log(2) if self._spec.metric == "bits_per_byte" else math.exp(nats)
        except OverflowError as error:
            raise ScoringError(
                f"`{self._spec.metric}` of example `{name}` is exp({nats:.0f}), too large for a number. "
                "Use the metric `bits_per_byte`, or texts of shorter words."
            ) from error
        return Outcome(name, metric, min(1.0, math.exp(loglikelihood / len(text.tokens))), loglikelihood)
