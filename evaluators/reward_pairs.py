"""Whether a reward model prefers the better of two answers (RewardBench, arXiv 2403.13787)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from evaluators.data import FieldName
from evaluators.documents import deal, pick
from evaluators.evaluator_spec import SEQUENCE_CLASSIFICATION, OneTaskSpec
from evaluators.meter import Meter
from evaluators.protocol import Evaluator, EvaluatorError, Example, Outcome, ScoringError, Task
from evaluators.setting import Setting
from evaluators.shares import AtLeastOne

if TYPE_CHECKING:
    from torch import nn

    from evaluators.classifier import Classifier, Text
    from evaluators.splits import Counts, Document

Turns = list[dict[str, str]]
Said = str | Turns


class RewardPairsSpec(OneTaskSpec):
    """The share of pairs whose better answer gets the higher reward; a tie counts half.

    `prompt`, `chosen` and `rejected` are fields of a document; it may have no prompt. Strings are put together as they
    are; with `chat_template: true` the prompt is the user's turn and the answer the assistant's, written by the
    tokenizer's chat template. Each may be a list of turns (`{role, content}`) instead, and then the template writes
    them all. An answer whose first turn is not the assistant's is a whole conversation, and stands without the prompt.
    The reward is the model's only logit, or the one of the label that `label` names. `batch_tokens` bounds the tokens
    the model is given at once; it is sized to memory where None.
    """

    scores: ClassVar[str | None] = SEQUENCE_CLASSIFICATION

    evaluator: Literal["reward-pairs"] = "reward-pairs"
    prompt: FieldName = "prompt"
    chosen: FieldName = "chosen"
    rejected: FieldName = "rejected"
    chat_template: bool = False
    label: Annotated[int, Field(ge=0, strict=True)] | str | None = None
    batch_tokens: AtLeastOne | None = None

    def open(self, setting: Setting) -> Evaluator:
        return RewardPairsEvaluator(self, setting)


class RewardPairsEvaluator:
    """Pairs scored by the difference of two rewards: 1 above zero, 0.5 at zero.

    `smooth` is the probability that the chosen answer wins, the sigmoid of the difference (Bradley and Terry 1952, doi
    10.2307/2334029), the log-likelihood its logarithm. A text that stands in several pairs is scored once.
    """

    def __init__(self, spec: RewardPairsSpec, setting: Setting) -> None:
        self._spec = spec
        self._setting = setting
        self._dealt = deal(spec.name, [self._kept(one) for one in spec.data.documents()], setting.splits, spec.limit)
        self._pairs = {name: self._written(name, document) for name, document in self._dealt.documents.items()}
        self._classifier: Classifier | None = None

    def tasks(self) -> list[Task]:
        return [self._spec.as_task(self._spec.name, "accuracy", higher_is_better=True)]

    def examples(self) -> list[Example]:
        return self._dealt.examples

    def counts(self) -> dict[str, Counts]:
        return {self._spec.name: self._dealt.counts}

    def check_model(self, model: nn.Module) -> None:
        """See `Evaluator.check_model`: whether it is clear which of its logits is the reward."""
        self._reward_of(model)

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """See `Evaluator.score`."""
        meter = meter or Meter()
        classifier = self._classifier_of(model)
        reward = self._reward_of(model)
        pairs = pick(self._pairs, ids)
        texts = list(dict.fromkeys(text for pair in pairs.values() for text in pair))
        logits = classifier.logits(texts, meter)
        with meter.stage("metrics"):
            rewards = dict(zip(texts, logits[:, reward].tolist(), strict=True))
            outcomes = {
                name: _outcome(name, rewards[chosen], rewards[rejected]) for name, (chosen, rejected) in pairs.items()
            }
        return [outcomes[name] for name in ids]

    def _kept(self, document: Document) -> dict[str, Any]:
        """What is asked of a document, under names of ours: other fields do not count."""
        spec = self._spec
        prompt = self._said(document, spec.prompt) if document.get(spec.prompt) else None
        answers = {"chosen": self._said(document, spec.chosen), "rejected": self._said(document, spec.rejected)}
        return {**({"prompt": prompt} if prompt else {}), **answers}

    def _said(self, document: Document, field: str) -> Said:
        value = document.get(field)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and value and all(map(_is_turn, value)):
            return [{"role": turn["role"], "content": turn["content"]} for turn in value]
        raise EvaluatorError(
            f"`{self._spec.name}`: every document must have text, or a list of turns (`role` and `content`), in its "
            f"field `{field}`, but one has {value!r}; its fields are {', '.join(map(str, document))}. Name the field "
            "in the job file, or mend the data."
        )

    def _written(self, name: str, document: Document) -> tuple[Text, Text]:
        """The two texts of a document."""
        from evaluators.classifier import Text

        prompt, answers = document.get("prompt"), (document["chosen"], document["rejected"])
        if self._spec.chat_template or not all(isinstance(part, str) for part in document.values()):
            texts = [Text(self._rendered(name, _conversation(prompt, one)), rendered=True) for one in answers]
        else:
            texts = [Text((prompt or "") + one) for one in answers]
        return texts[0], texts[1]

    def _rendered(self, name: str, turns: Turns) -> str:
        tokenizer = self._setting.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise EvaluatorError(
                f"`{self._spec.name}`: turns are written by the tokenizer's chat template, but it has none. Give the "
                "base's tokenizer one (chat_template.jinja beside it), or write the texts out in the data."
            )
        try:
            return str(tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception as error:  # a template may raise anything
            raise EvaluatorError(
                f"the chat template must be able to write example `{name}`, but: {error}. Its turns are those of "
                f"{', '.join(turn['role'] for turn in turns)}."
            ) from error

    def _reward_of(self, model: nn.Module) -> int:
        """The number of the logit that is the reward. Raises `EvaluatorError` where the job file does not say which."""
        from evaluators.classifier import label_id, labels_of

        wanted = self._spec.label
        labels, count = labels_of(model)
        if wanted is None:
            if count > 1:
                raise EvaluatorError(
                    f"`{self._spec.name}`: a reward is one number, but the model has {count} labels "
                    f"({', '.join(labels)}); say which one is the reward with `label`."
                )
            return 0
        number = label_id(wanted, labels, count)
        if number is None:
            raise EvaluatorError(
                f"`{self._spec.name}`: `label` must be one of {', '.join(labels)}, or a number from 0 to {count - 1}, "
                f"but is {wanted!r}."
            )
        return number

    def _classifier_of(self, model: nn.Module) -> Classifier:
        if self._classifier is None or self._classifier.model is not model:
            from evaluators.classifier import Classifier

            self._classifier = Classifier(model, self._setting.tokenizer, self._spec.batch_tokens)
        return self._classifier


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _conversation(prompt: Said | None, answer: Said) -> Turns:
    """The turns of prompt and answer; an answer that does not begin with the assistant has the prompt in it already."""
    after: Turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    if not prompt or after[0]["role"] != "assistant":
        return after
    before: Turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return [*before, *after]


def _outcome(name: str, chosen: float, rejected: float) -> Outcome:
    if not (math.isfinite(chosen) and math.isfinite(rejected)):
        raise ScoringError(f"rewards of example `{name}` are {chosen} and {rejected}; the weights are broken.")
    won = chosen - rejected
    loglikelihood = -math.log1p(math.exp(-abs(won))) + min(0.0, won)  # log sigmoid without overflow
    return Outcome(name, 0.5 if won == 0 else float(won > 0), math.exp(loglikelihood), loglikelihood)
