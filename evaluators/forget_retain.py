"""Unlearning: answers to be forgotten, beside answers to be kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator

from evaluators.bounds import Bound
from evaluators.counted import Counted, Name
from evaluators.data import Data, DataField, FieldName, text_of
from evaluators.documents import Dealt, deal, pick
from evaluators.evaluator_spec import CAUSAL_LM, EvaluatorSpec
from evaluators.meter import Meter
from evaluators.protocol import Evaluator, EvaluatorError, Example, Outcome, Task
from evaluators.setting import Setting
from evaluators.shares import AtLeastOne, Limit

if TYPE_CHECKING:
    from torch import nn

    from evaluators.lm import Continuation, Likelihood
    from evaluators.splits import Counts

_KEEP = Bound(at_least=-0.02, of="base")


def _to(direction: Literal["maximize", "minimize"]) -> Callable[[Counted], Counted]:
    def aimed(entry: Counted) -> Counted:
        if entry.direction not in (None, direction):
            raise ValueError(f"`direction` can only be {direction} here; leave it out")
        return entry.model_copy(update={"direction": direction})

    return aimed


def _kept_unless_told(value: Any) -> Any:
    """A weight alone does not take the bound away."""
    if isinstance(value, dict) and "bound" not in value and "objective" not in value:
        return {**value, "bound": _KEEP}
    return value


class ForgetRetainSpec(EvaluatorSpec):
    """Pairs of prompts and answers: those of `forget` are to become unlikely, those of `retain` to stay as they are.

    Two tasks, `NAME.forget` and `NAME.retain`. `prompt` and `answer` are the fields in the documents of both; other
    fields do not count. `metric`: `answer_probability`, the probability of the answer per token; or `exact`, 1 where
    greedy decoding gives the answer. `separator` stands between prompt and answer: where None, one space unless either
    brings whitespace of its own, and nothing after a chat template. `chat_template` asks the prompt as a user's turn.
    `forgetting` and `retaining` say how the two count: towards the objective, and a bound of a loss of 0.02 from the
    base. `batch_tokens` bounds the tokens the model is given at once; it is sized to memory where None.
    """

    scores: ClassVar[str | None] = CAUSAL_LM

    evaluator: Literal["forget-retain"] = "forget-retain"
    name: Name
    forget: DataField
    retain: DataField
    prompt: FieldName = "prompt"
    answer: FieldName = "answer"
    metric: Literal["answer_probability", "exact"] = "answer_probability"
    separator: str | None = None
    chat_template: bool = False
    limit: Limit | None = None
    batch_tokens: AtLeastOne | None = None
    forgetting: Annotated[Counted, AfterValidator(_to("minimize"))] = Counted(direction="minimize")
    retaining: Annotated[Counted, BeforeValidator(_kept_unless_told), AfterValidator(_to("maximize"))] = Counted(
        direction="maximize", bound=_KEEP
    )

    def counted(self) -> list[Counted]:
        return [self.forgetting, self.retaining]

    def located(self, place: Callable[[str], str]) -> Self:
        return self.model_copy(update={"forget": self.forget.located(place), "retain": self.retain.located(place)})

    def open(self, setting: Setting) -> Evaluator:
        return ForgetRetainEvaluator(self, setting)


class ForgetRetainEvaluator:
    """The two tasks of a `ForgetRetainSpec`.

    An answer's probability is normalised for its length, P(answer | prompt)^(1 / tokens), as TOFU does
    (arXiv 2401.06121); it is the smooth score of either metric.
    """

    def __init__(self, spec: ForgetRetainSpec, setting: Setting) -> None:
        self._spec = spec
        self._setting = setting
        documents = {"forget": self._documents(spec.forget), "retain": self._documents(spec.retain)}
        self._refuse_shared(documents["forget"], documents["retain"])
        self._dealt: dict[str, Dealt] = {}
        for side, rows in documents.items():
            task = f"{spec.name}.{side}"
            self._dealt[task] = deal(task, rows, setting.splits, spec.limit)
        self._asked = self._encoded()

    def tasks(self) -> list[Task]:
        return [
            entry.as_task(name, self._spec.metric, higher_is_better=True)
            for name, entry in zip(self._dealt, self._spec.counted(), strict=True)
        ]

    def examples(self) -> list[Example]:
        return [example for dealt in self._dealt.values() for example in dealt.examples]

    def counts(self) -> dict[str, Counts]:
        return {name: dealt.counts for name, dealt in self._dealt.items()}

    def check_model(self, model: nn.Module) -> None:
        """Raise `EvaluatorError` where an answer does not fit the model's window."""
        from evaluators.lm import window_of

        _check_room(self._asked, window_of(model, self._setting.tokenizer))

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """See `Evaluator.score`."""
        from evaluators.lm.pairs import likelihoods

        meter = meter or Meter()
        lm = self._setting.language_model(model, self._spec.batch_tokens)
        asked = pick(self._asked, ids)
        _check_room(asked, lm.room)
        answers = likelihoods(lm, {name: [request] for name, request in asked.items()}, meter)
        with meter.stage("metrics"):
            outcomes = {name: self._outcome(name, request, answers[name][0]) for name, request in asked.items()}
        return [outcomes[name] for name in ids]

    def _outcome(self, name: str, request: Continuation, answer: Likelihood) -> Outcome:
        probability = min(1.0, math.exp(answer.loglikelihood / len(request.continuation)))
        metric = probability if self._spec.metric == "answer_probability" else float(answer.greedy)
        return Outcome(name, metric, probability, answer.loglikelihood)

    # ---- preparing

    def _documents(self, data: Data) -> list[dict[str, str]]:
        spec = self._spec
        return [
            {
                "prompt": text_of(document, spec.prompt, spec.name),
                "answer": text_of(document, spec.answer, spec.name),
            }
            for document in data.documents()
        ]

    def _refuse_shared(self, forget: Sequence[dict[str, str]], retain: Sequence[dict[str, str]]) -> None:
        kept = {_bare(document) for document in retain}
        shared = [document for document in forget if _bare(document) in kept]
        if shared:
            raise EvaluatorError(
                f"`{self._spec.name}`: nothing can be both forgotten and kept, but {len(shared)} documents of `forget` "
                f"are in `retain` too, the first of them {shared[0]}. Take them out of one of the two."
            )

    def _encoded(self) -> dict[str, Continuation]:
        """Every example's request, by its id. Raises `EvaluatorError` for an answer without a token."""
        from evaluators.lm.pairs import Encoder

        documents = {name: document for dealt in self._dealt.values() for name, document in dealt.documents.items()}
        pairs = [self._pair(str(document["prompt"]), str(document["answer"])) for document in documents.values()]
        asked = dict(zip(documents, Encoder(self._setting.tokenizer).pairs(pairs), strict=True))
        for name, request in asked.items():
            if not request.continuation:
                raise EvaluatorError(
                    f"the answer of every example must have a token of its own, but that of `{name}` has none: "
                    f"{dict(documents[name])}. Set another `separator`, or take the document out."
                )
        return asked

    def _pair(self, prompt: str, answer: str) -> tuple[str, str]:
        separator = self._spec.separator
        if self._spec.chat_template:
            return _as_turn(self._setting.tokenizer, prompt), (separator or "") + answer
        if separator is None:
            separator = "" if prompt[-1].isspace() or answer[0].isspace() else " "
        return prompt, separator + answer


def _bare(document: dict[str, str]) -> tuple[str, str]:
    return document["prompt"].strip(), document["answer"].strip()


def _as_turn(tokenizer: Any, prompt: str) -> str:
    """The prompt as what a user says, up to where the model's turn begins."""
    from jinja2 import TemplateError

    if getattr(tokenizer, "chat_template", None) is None:
        raise EvaluatorError(
            "`chat_template: true` needs a tokenizer with a chat template, but this one has none. "
            "Set `chat_template: false`, or add the template to the base model's tokenizer files."
        )
    turn = [{"role": "user", "content": prompt}]
    try:
        return str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError) as error:
        raise EvaluatorError(
            "the tokenizer's chat template must take one turn of a user, but says: "
            f"{str(error).rstrip('.')}. Set `chat_template: false`, or mend the template."
        ) from error


def _check_room(asked: dict[str, Continuation], room: int) -> None:
    """A prompt may lose its beginning, but an answer has to be seen whole."""
    for name, request in asked.items():
        if len(request.continuation) > room:
            raise EvaluatorError(
                f"an answer must fit the model's window of {room} tokens, but that of `{name}` has "
                f"{len(request.continuation)}. Shorten it, or take the document out."
            )
