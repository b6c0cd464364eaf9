"""What a job file says about evaluation: a list of evaluators, each with its tasks."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from evaluators.counted import Counted
from evaluators.evaluator_spec import EvaluatorSpec
from evaluators.forget_retain import ForgetRetainSpec
from evaluators.generation import GenerationSpec
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.perplexity import PerplexitySpec
from evaluators.protocol import Evaluator
from evaluators.python_function import PythonFunctionSpec
from evaluators.reward_pairs import RewardPairsSpec
from evaluators.setting import Setting
from evaluators.several import Several
from evaluators.text_classification import TextClassificationSpec

# One line for each kind of evaluator.
AnyEvaluatorSpec = Annotated[
    LmEvalSpec
    | PerplexitySpec
    | ForgetRetainSpec
    | GenerationSpec
    | TextClassificationSpec
    | RewardPairsSpec
    | PythonFunctionSpec,
    Field(discriminator="evaluator"),
]


def _listed(value: Any) -> Any:
    """A single entry may stand without a list, and lm-eval tasks without the evaluator's name."""
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list | tuple) or any(isinstance(entry, str) for entry in entries):
        raise ValueError("must be a mapping such as `{tasks: [gsm8k]}`, or a list of evaluators, each a mapping")
    return [{"evaluator": "lm-eval", **entry} if isinstance(entry, dict) else entry for entry in entries]


Evaluate = Annotated[tuple[AnyEvaluatorSpec, ...], BeforeValidator(_listed), Field(min_length=1)]
"""The `evaluate` key of a job file."""


def counted(evaluate: Sequence[EvaluatorSpec]) -> list[Counted]:
    """The tasks of all evaluators as far as the file names them, in order."""
    return [entry for spec in evaluate for entry in spec.counted()]


def open_evaluators(evaluate: Sequence[EvaluatorSpec], setting: Setting) -> Evaluator:
    """All evaluators as one. Raises `EvaluatorError`."""
    opened = [spec.open(setting) for spec in evaluate]
    return opened[0] if len(opened) == 1 else Several(opened)
