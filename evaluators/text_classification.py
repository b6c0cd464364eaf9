"""Whether a classifier gives texts their labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evaluators.data import FieldName, text_of
from evaluators.documents import deal, pick
from evaluators.evaluator_spec import SEQUENCE_CLASSIFICATION, OneTaskSpec
from evaluators.meter import Meter
from evaluators.protocol import Evaluator, EvaluatorError, Example, Outcome, ScoringError, Task
from evaluators.setting import Setting
from evaluators.shares import AtLeastOne
from evaluators.twins import factors, turned_away

if TYPE_CHECKING:
    from torch import nn

    from evaluators.classifier import Classifier, Head
    from evaluators.classifier.differentiable import DifferentiableClassifier
    from evaluators.splits import Counts, Document


class TextClassificationSpec(OneTaskSpec):
    """The share of texts that get the label they have.

    `text`, `pair` and `label` are fields of every document; with `pair` the tokenizer joins two texts. A label is its
    number or its name in the model's config. `head` names the expert whose classification head the texts are scored
    with, where the experts were made for different tasks: the head is read from the expert's folder and takes the place
    of the merge's own, and the labels are that expert's. `batch_tokens` bounds the tokens the model is given at once;
    it is sized to memory where None.
    """

    scores: ClassVar[str | None] = SEQUENCE_CLASSIFICATION

    evaluator: Literal["text-classification"] = "text-classification"
    text: FieldName = "text"
    pair: FieldName | None = None
    label: FieldName = "label"
    head: str | None = None
    batch_tokens: AtLeastOne | None = None

    def open(self, setting: Setting) -> Evaluator:
        return TextClassificationEvaluator(self, setting)


class TextClassificationEvaluator:
    """Texts scored by their logits: 1 where the gold label's is the largest.

    `smooth` is the gold label's probability, the log-likelihood its logarithm.
    """

    def __init__(self, spec: TextClassificationSpec, setting: Setting) -> None:
        self._spec = spec
        self._setting = setting
        self._dealt = deal(spec.name, [self._kept(one) for one in spec.data.documents()], setting.splits, spec.limit)
        self._head = self._expert_head()
        self._gold: Mapping[str, int] = {}  # without an expert's head the model's config has the labels
        if self._head is not None:
            self._gold = self._numbered(self._head.labels, self._head.count)
        self._classifier: Classifier | None = None
        self._differentiable: DifferentiableClassifier | None = None

    def tasks(self) -> list[Task]:
        return [self._spec.as_task(self._spec.name, "accuracy", higher_is_better=True)]

    def examples(self) -> list[Example]:
        return self._dealt.examples

    def counts(self) -> dict[str, Counts]:
        return {self._spec.name: self._dealt.counts}

    def check_model(self, model: nn.Module) -> None:
        """See `Evaluator.check_model`: whether it has the labels, or a place for the expert's head."""
        from evaluators.classifier import check_fits, labels_of

        if self._head is not None:
            check_fits(self._head, model)
        else:
            self._gold = self._numbered(*labels_of(model))

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """See `Evaluator.score`."""
        from evaluators.classifier import Text

        meter = meter or Meter()
        classifier = self._classifier_of(model)
        documents = pick(self._dealt.documents, ids)
        texts = [Text(document["text"], document.get("pair")) for document in documents.values()]
        logits = classifier.logits(texts, meter, self._head)
        with meter.stage("metrics"):
            outcomes = {
                name: _outcome(name, row, self._gold[name])
                for name, row in zip(documents, logits.tolist(), strict=True)
            }
        return [outcomes[name] for name in ids]

    def twins(self) -> dict[str, str | None]:
        """See `Differentiable.twins`."""
        return {task.name: turned_away(task) for task in self.tasks()}

    def backward(
        self, model: nn.Module, ids: Sequence[str], scales: Mapping[str, float], meter: Meter | None = None
    ) -> list[float]:
        """See `Differentiable.backward`: the cross-entropy of the labels, minus the logarithm of `smooth`."""
        from evaluators.classifier import Text
        from evaluators.classifier.differentiable import DifferentiableClassifier

        documents = pick(self._dealt.documents, ids)
        counted = factors(ids, scales, self.twins())
        if self._differentiable is None or self._differentiable.model is not model:
            self.check_model(model)
            self._differentiable = DifferentiableClassifier(model, self._setting.tokenizer, self._spec.batch_tokens)
        texts = {name: Text(document["text"], document.get("pair")) for name, document in documents.items()}
        losses = self._differentiable.backward(texts, self._gold, counted, meter or Meter(), self._head)
        return [losses[name] for name in ids]

    def _kept(self, document: Document) -> dict[str, Any]:
        """What is asked of a document, under names of ours: other fields do not count."""
        spec = self._spec
        label = document.get(spec.label)
        if not isinstance(label, int | str) or isinstance(label, bool):
            raise EvaluatorError(
                f"`{spec.name}`: every document must have a label in its field `{spec.label}`, a number or a name, but "
                f"one has {label!r}; its fields are {', '.join(map(str, document))}. Name the field in the job file, "
                "or mend the data."
            )
        pair = {} if spec.pair is None else {"pair": text_of(document, spec.pair, spec.name)}
        return {"text": text_of(document, spec.text, spec.name), **pair, "label": label}

    def _expert_head(self) -> Head | None:
        expert = self._spec.head
        if expert is None:
            return None
        if expert not in self._setting.experts:
            raise EvaluatorError(
                f"`{self._spec.name}`: `head` must name an expert, one of {', '.join(self._setting.experts)}, but is "
                f"{expert!r}."
            )
        from evaluators.classifier import read_head

        return read_head(expert, Path(self._setting.folder_of(expert)))

    def _numbered(self, labels: Mapping[str, int], count: int) -> dict[str, int]:
        """The number of every example's label. Raises `EvaluatorError` for one the head does not have."""
        from evaluators.classifier import label_id

        if count < 2:
            raise EvaluatorError(
                f"`{self._spec.name}`: texts are told apart by a head of at least 2 labels, but this one has {count}. "
                "Name another expert's `head`, or use the evaluator `reward-pairs`."
            )
        found = {}
        for name, document in self._dealt.documents.items():
            number = label_id(document["label"], labels, count)
            if number is None:
                raise EvaluatorError(
                    f"`{self._spec.name}`: a label must be one of {', '.join(labels)}, or a number from 0 to "
                    f"{count - 1}, but example `{name}` has {document['label']!r}. Mend the data, or name the expert "
                    "whose task it is in `head`."
                )
            found[name] = number
        return found

    def _classifier_of(self, model: nn.Module) -> Classifier:
        if self._classifier is None or self._classifier.model is not model:
            from evaluators.classifier import Classifier

            self.check_model(model)
            self._classifier = Classifier(model, self._setting.tokenizer, self._spec.batch_tokens)
        return self._classifier


def _outcome(name: str, logits: list[float], gold: int) -> Outcome:
    if not all(map(math.isfinite, logits)):
        raise ScoringError(f"logits of example `{name}` are {logits}; the weights are broken.")
    top = max(logits)
    loglikelihood = logits[gold] - top - math.log(math.fsum(math.exp(logit - top) for logit in logits))
    return Outcome(name, float(logits.index(top) == gold), min(1.0, math.exp(loglikelihood)), loglikelihood)
