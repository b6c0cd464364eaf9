"""Texts that a model writes to prompts, measured in several ways."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from evaluators.counted import Counted, Name
from evaluators.data import DataField, FieldName, text_of
from evaluators.documents import deal, pick
from evaluators.evaluator_spec import CAUSAL_LM, EvaluatorSpec
from evaluators.frozen import Frozen
from evaluators.measures import Answer, AnyMeasure
from evaluators.meter import Meter
from evaluators.modes import evaluating
from evaluators.protocol import Evaluator, EvaluatorError, Example, Outcome, ScoringError, Task
from evaluators.setting import Setting
from evaluators.shares import Limit

if TYPE_CHECKING:
    from torch import nn

    from evaluators.lm import Generated, LanguageModel, Prompt, Sampling
    from evaluators.splits import Counts

Count = Annotated[int, Field(ge=1, strict=True)]


class Drawing(Frozen):
    """How tokens are drawn; what is left out is as the model's own generation config has it."""

    temperature: Annotated[float, Field(gt=0)] | None = None
    top_k: Count | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class GenerationSpec(EvaluatorSpec):
    """Prompts, how they are answered, and the measures of the answers: each a task `NAME.MEASURE` of the same prompts.

    `field` holds a document's prompt. An answer ends at an end token, at one of `until`, or after `max_tokens`. Answers
    are greedy, or drawn as `sampling` says, `samples` of them for each prompt, whose measures are averaged.
    `repetition_penalty` is that of the model's own generation config where None.
    """

    scores: ClassVar[str | None] = CAUSAL_LM

    evaluator: Literal["generation"] = "generation"
    name: Name
    data: DataField
    field: FieldName = "prompt"
    max_tokens: Count = 128
    until: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_one_or_many)] = ()
    chat_template: bool = False
    system_instruction: str | None = None
    sampling: Drawing | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    samples: Count = 1
    batch_tokens: Count | None = None
    limit: Limit | None = None
    measures: tuple[AnyMeasure, ...]

    @model_validator(mode="after")
    def _means_what_it_says(self) -> Self:
        if not self.measures:
            raise ValueError("`measures` must name at least one measure, but names none")
        names = [measure.measure for measure in self.measures]
        twice = [name for index, name in enumerate(names) if name in names[:index]]
        if twice:
            raise ValueError(
                f"a measure may be listed once, but `{twice[0]}` is listed {names.count(twice[0])} times; give the "
                "other one to a second `generation` evaluator"
            )
        if self.samples > 1 and self.sampling is None:
            raise ValueError(
                f"greedy answers to a prompt are all the same, but `samples` is {self.samples}; add `sampling`, or "
                "leave `samples` out"
            )
        if self.system_instruction is not None and not self.chat_template:
            raise ValueError(
                "`system_instruction` is a message of a conversation and needs `chat_template: true`; set it, or write "
                "the instruction into the prompts"
            )
        return self

    def counted(self) -> list[Counted]:
        return list(self.measures)

    def located(self, place: Callable[[str], str]) -> Self:
        measures = tuple(measure.located(place) for measure in self.measures)
        return self.model_copy(update={"data": self.data.located(place), "measures": measures})

    def open(self, setting: Setting) -> Evaluator:
        return GenerationEvaluator(self, setting)


class _Place(NamedTuple):
    """Which measure of which prompt an example is."""

    measure: int
    prompt: str


class GenerationEvaluator:
    """Answers to prompts as an `Evaluator`: each prompt that is asked for is answered once for all of its measures.

    Raises `EvaluatorError` where a document has no prompt, a measure cannot be taken, or the search wants what no
    measure has.
    """

    def __init__(self, spec: GenerationSpec, setting: Setting) -> None:
        self._spec = spec
        self._setting = setting
        self._tasks = [
            one.as_task(f"{spec.name}.{one.measure}", one.metric, one.higher_is_better) for one in spec.measures
        ]
        self._refuse_to_be_followed_smoothly()
        # by its prompt alone: with a running number beside it, one prompt would stand in several splits
        prompts = [{"prompt": text_of(row, spec.field, spec.name)} for row in spec.data.documents()]
        dealt = deal(spec.name, prompts, setting.splits, spec.limit)
        self._counts = dealt.counts
        self._texts = {name: self._text(str(row["prompt"])) for name, row in dealt.documents.items()}
        self._tokens = dict(zip(self._texts, self._encoded(list(self._texts.values())), strict=True))
        self._measured = [one.open() for one in spec.measures]
        self._examples: list[Example] = []
        self._places: dict[str, _Place] = {}
        for number, task in enumerate(self._tasks):
            for example in dealt.examples:
                own = f"{task.name}:{example.id.rpartition(':')[2]}"
                self._examples.append(Example(own, task.name, example.split))
                self._places[own] = _Place(number, example.id)

    def tasks(self) -> list[Task]:
        return list(self._tasks)

    def examples(self) -> list[Example]:
        """By measure in the order of `tasks`, then by split, then by id; the prompts are the same for each."""
        return list(self._examples)

    def counts(self) -> dict[str, Counts]:
        return {task.name: self._counts for task in self._tasks}

    def check_model(self, model: nn.Module) -> None:
        """Raise `EvaluatorError` where an answer would not fit the model's window."""
        from evaluators.lm import window_of

        self._check_room(window_of(model, self._setting.tokenizer))

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """See `Evaluator.score`. An example's metric is the mean of its measure over the prompt's answers."""
        asked = pick(self._places, ids)
        meter = meter or Meter()
        lm = self._setting.language_model(model, self._spec.batch_tokens)
        self._check_room(lm.room)
        with evaluating(model):
            answers = self._answers(lm, asked, meter)
        metrics: dict[str, float] = {}
        with meter.stage("metrics"):
            for number in range(len(self._tasks)):
                mine = {name: answers[place.prompt] for name, place in asked.items() if place.measure == number}
                metrics |= self._measure(number, mine, next(model.parameters()).device)
        return [Outcome(name, metrics[name]) for name in ids]

    def _measure(self, number: int, answers: Mapping[str, list[Answer]], device: Any) -> dict[str, float]:
        """The mean of one measure over each example's answers."""
        if not answers:
            return {}
        values = iter(self._measured[number]([answer for several in answers.values() for answer in several], device))
        found = {name: math.fsum(next(values) for _ in several) / len(several) for name, several in answers.items()}
        for name, value in found.items():
            if not math.isfinite(value):
                raise ScoringError(f"`{self._tasks[number].metric}` of example `{name}` is {value}.")
        return found

    # ---- preparing

    def _refuse_to_be_followed_smoothly(self) -> None:
        named = [task.name for task in self._tasks if task.objective is not None]
        if self._setting.smooth and named:
            raise EvaluatorError(
                f"signal `smooth` needs a smooth score from every task of an objective, but {', '.join(named)} has "
                "none: there is no right answer to be likely. Use signal `metric`, or give the measure only a `bound`."
            )

    def _text(self, prompt: str) -> str:
        """The prompt as the model reads it, in a conversation where the job says so."""
        if not self._spec.chat_template:
            return prompt
        tokenizer, instruction = self._setting.tokenizer, self._spec.system_instruction
        if getattr(tokenizer, "chat_template", None) is None:
            raise EvaluatorError(
                "`chat_template: true` needs a tokenizer with a chat template, but this one has none. "
                "Set `chat_template: false`, or add the template to the base model's tokenizer files."
            )
        messages = [] if instruction is None else [{"role": "system", "content": instruction}]
        messages.append({"role": "user", "content": prompt})
        try:
            text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template may raise anything; many refuse a system message
            raise EvaluatorError(
                f"`{self._spec.name}`: the tokenizer's chat template must take every prompt, but: {error}. Leave out "
                "`system_instruction` if the template has no place for it."
            ) from error
        return text

    def _encoded(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """A prompt without tokens is the prefix alone."""
        from evaluators.lm.pairs import Encoder

        encoder = Encoder(self._setting.tokenizer)
        return [tokens or (encoder.prefix,) for tokens in encoder.texts(texts)]

    def _check_room(self, room: int) -> None:
        if self._spec.max_tokens >= room:
            raise EvaluatorError(
                f"`{self._spec.name}` may generate {self._spec.max_tokens} tokens, but the model's whole window has "
                f"{room}. Set a smaller `max_tokens`."
            )

    # ---- asking the model

    def _answers(self, lm: LanguageModel, asked: Mapping[str, _Place], meter: Meter) -> dict[str, list[Answer]]:
        """The answers to each prompt of which anything is asked."""
        first: dict[str, str] = {}
        for name, place in asked.items():
            first.setdefault(place.prompt, name)
        samples = self._spec.samples
        written = lm.generate([self._prompt(lm, prompt, n) for prompt in first for n in range(samples)], meter)
        owners = [name for name in first.values() for _ in range(samples)]
        broken = list(dict.fromkeys(name for name, one in zip(owners, written, strict=True) if not one.finite))
        if broken:
            raise ScoringError(
                f"logits are not finite while generating for {len(broken)} of {len(first)} prompts, the first of them "
                f"that of `{broken[0]}`; the weights are broken."
            )
        answers = iter(written)
        return {prompt: [as_answer(next(answers), lm.tokenizer) for _ in range(samples)] for prompt in first}

    def _prompt(self, lm: LanguageModel, name: str, repeat: int) -> Prompt:
        from evaluators.lm import Prompt

        tokens = self._tokens[name]
        own = getattr(lm.model, "generation_config", None)
        penalty = self._spec.repetition_penalty or getattr(own, "repetition_penalty", None) or 1.0
        sampling = None if self._spec.sampling is None else _sampling(self._spec.sampling, own, tokens, repeat)
        return Prompt(tokens, self._spec.until, self._spec.max_tokens, sampling, float(penalty))


def as_answer(generated: Generated, tokenizer: Any) -> Answer:
    """The text that was kept and its tokens: without the end token, or those only a stop string needed."""
    tokens = generated.tokens
    if generated.ended == "end":
        tokens = tokens[:-1]
    while generated.ended == "stop" and tokens:
        if not tokenizer.decode(tokens[:-1], skip_special_tokens=True).startswith(generated.text):
            break
        tokens = tokens[:-1]
    return Answer(generated.text, tokens, generated.ended)


def _sampling(how: Drawing, own: Any, tokens: tuple[int, ...], repeat: int) -> Sampling:
    """Draws that belong to the prompt's tokens and the number of its answer, as for lm-eval's tasks."""
    from evaluators.lm import Sampling

    digest = hashlib.sha256(repr((tokens, repeat)).encode()).digest()
    return Sampling(
        seed=int.from_bytes(digest[:8], "big"),
        temperature=float(how.temperature or getattr(own, "temperature", None) or 1.0),
        top_k=how.top_k or getattr(own, "top_k", None),
        top_p=how.top_p or getattr(own, "top_p", None),
        min_p=getattr(own, "min_p", None),
    )
