"""A user's own function as an evaluator: it is given the live model and documents, and returns a score for each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, JsonValue

from evaluators.documents import deal, pick
from evaluators.evaluator_spec import OneTaskSpec
from evaluators.meter import Meter
from evaluators.modes import evaluating
from evaluators.own_code import Reference, cause_in, function_at, located_function
from evaluators.protocol import Evaluator, EvaluatorError, Example, Outcome, ScoringError, Task
from evaluators.setting import Setting
from evaluators.splits import Counts, Document

if TYPE_CHECKING:
    from torch import nn

GIVEN = ("tokenizer", "device")
"""What the function is given beside model, documents and options, where its signature names it."""

_SAMPLED = 16  # numbers of a tensor

Row = tuple[float, float | None, float | None]


class PythonFunctionSpec(OneTaskSpec):
    """Documents scored one by one by `function`, called as `function(model, documents, **options)`.

    It returns one number per document, or one mapping with `metric` and, where there are such, `smooth` and
    `loglikelihood`. `metric` is what reports call the score, the function's name where None. `batch` documents are
    given at a time, all that are asked for where None.
    """

    evaluator: Literal["python"] = "python"
    function: Reference
    metric: Annotated[str, Field(min_length=1)] | None = None
    higher_is_better: bool = True
    options: dict[str, JsonValue] = Field(default_factory=dict)
    batch: Annotated[int, Field(ge=1, strict=True)] | None = None

    def located(self, place: Callable[[str], str]) -> Self:
        function, data = located_function(self.function, place), self.data.located(place)
        return self.model_copy(update={"function": function, "data": data})

    def runs(self) -> list[str]:
        return [self.function]

    def open(self, setting: Setting) -> Evaluator:
        return PythonFunction(self, setting)


class PythonFunction:
    """One task, its documents dealt by their content, scored by the user's function."""

    def __init__(self, spec: PythonFunctionSpec, setting: Setting) -> None:
        """Raises `EvaluatorError` where the function cannot be imported or called with the options."""
        self._spec = spec
        self._smooth = setting.smooth
        self._function = function_at(spec.function)
        takes = _check_signature(spec, self._function)
        self._takes_device = "device" in takes
        self._keywords: dict[str, Any] = dict(spec.options)
        if "tokenizer" in takes:
            self._keywords["tokenizer"] = setting.tokenizer
        self._dealt = deal(spec.name, spec.data.documents(), setting.splits, spec.limit)
        self._changed: str | None = None

    def tasks(self) -> list[Task]:
        spec = self._spec
        return [spec.as_task(spec.name, spec.metric or spec.function.rpartition(":")[2], spec.higher_is_better)]

    def examples(self) -> list[Example]:
        return self._dealt.examples

    def counts(self) -> Mapping[str, Counts]:
        return {self._spec.name: self._dealt.counts}

    def check_model(self, model: nn.Module) -> None:
        """Only the function knows."""

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """See `Evaluator.score`. Whatever the function raises is a `ScoringError` naming its line."""
        meter = meter or Meter()
        documents = list(pick(self._dealt.documents, ids).items())
        size = self._spec.batch or max(1, len(documents))
        found: dict[str, Outcome] = {}
        for start in range(0, len(documents), size):
            found |= self._some(model, dict(documents[start : start + size]), meter)
        return [found[name] for name in ids]

    def _some(self, model: nn.Module, documents: Mapping[str, Document], meter: Meter) -> dict[str, Outcome]:
        with self._untouched(model), evaluating(model):
            # the whole call counts as the model's own: what of it is not, only the function knows
            with meter.stage("forward"), meter.model("forward", 0):
                rows = self._call(model, documents)
            return {name: Outcome(name, *row) for name, row in zip(documents, rows, strict=True)}

    def _call(self, model: nn.Module, documents: Mapping[str, Document]) -> list[Row]:
        import torch

        keywords = self._keywords | ({"device": _device(model)} if self._takes_device else {})
        try:
            with torch.no_grad():
                answer = self._function(model, [dict(document) for document in documents.values()], **keywords)
                answers = _listed(answer)
        except torch.AcceleratorError:  # the device is lost to this process: another worker must take over
            raise
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            advice = " Give it fewer documents at a time with `batch`." if _out_of_memory(error) else ""
            raise ScoringError(f"{self._at(documents)}: {cause_in(error, self._function)}{advice}") from error
        if answers is None or len(answers) != len(documents):
            what = type(answer).__name__ if answers is None else f"{len(answers)} scores"
            raise ScoringError(
                f"{self._at(documents)}: must return one score for each of the {len(documents)} documents it is "
                f"given, in their order, but returned {what}."
            )
        return [self._row(name, answer) for name, answer in zip(documents, answers, strict=True)]

    def _row(self, name: str, answer: Any) -> Row:
        """One answer as numbers."""
        parts = answer if isinstance(answer, Mapping) else {"metric": answer}
        if "metric" not in parts or not parts.keys() <= {"metric", "smooth", "loglikelihood"}:
            raise self._refused(name, "a mapping with `metric` and maybe `smooth` and `loglikelihood`", list(parts))
        metric = self._number(name, "metric", parts["metric"])
        smooth, loglikelihood = (
            None if parts.get(key) is None else self._number(name, key, parts[key])
            for key in ("smooth", "loglikelihood")
        )
        if smooth is None and self._smooth:
            raise self._refused(name, "a `smooth` score as well, because `search.signal` is smooth", answer)
        if smooth is not None and not 0 <= smooth <= 1:
            raise self._refused(name, "a `smooth` score between 0 and 1", smooth)
        return metric, smooth, loglikelihood

    def _number(self, name: str, key: str, value: Any) -> float:
        number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
        if not isinstance(number, int | float):
            raise self._refused(name, f"a number as `{key}`", value)
        if not math.isfinite(number):
            raise self._refused(name, f"a finite `{key}`", number)
        return float(number)

    def _refused(self, name: str, rule: str, value: Any) -> ScoringError:
        return ScoringError(f"{self._spec.function}: must give example `{name}` {rule}, but gave {value!r}.")

    def _at(self, documents: Mapping[str, Document]) -> str:
        first, *others = documents
        more = f" and {len(others)} more" if others else ""
        return f"{self._spec.function}, asked about example `{first}`{more}"

    @contextmanager
    def _untouched(self, model: nn.Module) -> Iterator[None]:
        """Raise `ScoringError`, now and ever after, where weights change inside: the next merge builds on them."""
        self._refuse_changed()
        before = _marks(model)
        try:
            yield
        finally:
            after = _marks(model)
            self._changed = next((name for name in after if after[name] != before.get(name)), None)
        self._refuse_changed()

    def _refuse_changed(self) -> None:
        if self._changed is not None:
            raise ScoringError(
                f"{self._spec.function}: must leave the model's weights as they are, but changed `{self._changed}`; "
                "let it work on a copy."
            )


def _check_signature(spec: PythonFunctionSpec, function: Callable[..., Any]) -> set[str]:
    """Which of `GIVEN` the function takes. Raises `EvaluatorError` where it cannot be called with the options."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built-in functions may have none: the call itself will tell
        return set()
    reserved = [name for name in GIVEN if name in spec.options]
    if reserved:
        raise EvaluatorError(
            f"`{spec.name}`: {', '.join(GIVEN)} are given to a function that names them, so they cannot be `options`, "
            f"but `{reserved[0]}` is one; take it out of the job file."
        )
    named = {name for name, one in signature.parameters.items() if one.kind is not one.VAR_KEYWORD}
    takes = {name for name in GIVEN if name in named}
    try:
        signature.bind(None, [], **spec.options, **dict.fromkeys(takes))
    except TypeError as error:
        raise EvaluatorError(
            f"`{spec.name}`: {spec.function} is called as function(model, documents, **options), but: {error}. Its "
            f"signature is {signature}; mend it, or the evaluator's `options`."
        ) from None
    return takes


def _listed(answer: Any) -> list[Any] | None:
    """The answers of a list, a tuple, or an array or tensor of one dimension; None for anything else."""
    if callable(getattr(answer, "tolist", None)) and getattr(answer, "ndim", 0) == 1:
        answer = answer.tolist()
    return list(answer) if isinstance(answer, list | tuple) else None


def _marks(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """What is different about each tensor of the model once it was written to, or put somewhere else."""
    tensors = model.state_dict(keep_vars=True)
    return {name: (id(one), one.data_ptr(), one.dtype, one._version, *_sample(one)) for name, one in tensors.items()}


def _sample(tensor: Any) -> list[Any]:
    """Some numbers of a tensor, spread over it: what is written through `.data` raises no version."""
    flat = tensor.detach().reshape(-1)
    return list(flat[:: max(1, flat.numel() // _SAMPLED)].tolist())


def _device(model: nn.Module) -> Any:
    import torch

    return next((tensor.device for tensor in model.state_dict(keep_vars=True).values()), torch.device("cpu"))


def _out_of_memory(error: BaseException) -> bool:
    return "out of memory" in str(error).lower() or isinstance(error, MemoryError)
