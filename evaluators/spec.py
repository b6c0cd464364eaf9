"""What a job file says about evaluation: a list of evaluators, each with its tasks."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from evaluators.counted import Counted
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.protocol import Evaluator
from evaluators.setting import Setting
from evaluators.several import Several

AnyEvaluatorSpec = LmEvalSpec
"""One line for each kind of evaluator."""


def _listed(value: Any) -> Any:
    """A single entry may stand without a list, and lm-eval tasks without the evaluator's name."""
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list | tuple):
        return value
    return [{"evaluator": "lm-eval", **entry} if isinstance(entry, dict) else entry for entry in entries]


Evaluate = Annotated[tuple[AnyEvaluatorSpec, ...], BeforeValidator(_listed), Field(min_length=1)]
"""The `evaluate` key of a job file."""


def counted(evaluate: Sequence[AnyEvaluatorSpec]) -> list[Counted]:
    """The tasks of all evaluators as far as the file names them, in order."""
    return [entry for spec in evaluate for entry in spec.counted()]


def open_evaluators(evaluate: Sequence[AnyEvaluatorSpec], setting: Setting) -> Evaluator:
    """All evaluators as one. Raises `EvaluatorError`."""
    opened = [spec.open(setting) for spec in evaluate]
    return opened[0] if len(opened) == 1 else Several(opened)
