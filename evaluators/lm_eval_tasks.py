"""lm-eval tasks in a job file: which ones, and how they are asked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from evaluators.counted import Counted
from evaluators.evaluator_spec import CAUSAL_LM, EvaluatorSpec
from evaluators.protocol import Evaluator, EvaluatorError, Task
from evaluators.setting import Setting
from evaluators.shares import Limit


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _name_or_mapping(value: Any) -> Any:
    return {"task": value} if isinstance(value, str) else value


class LmEvalTask(Counted):
    """One lm-eval task, group or tag; a group or tag stands for its leaf tasks, which share `weight` equally.

    `metric`: the task's first metric that is a mean over examples where None. `filter`: the task's first
    filter where None. `fewshot`: examples shown in the prompt, the task's own number where None. `limit`: at most so
    many examples in each split, one number for all or a number for each, the ones whose ids come first, so that the
    choice does not depend on the order of the data file. `teacher`: the expert that the gradient of a search takes for
    right on the task's prompts, in place of gold answers.
    """

    task: Annotated[str, Field(min_length=1)]
    metric: str | None = None
    filter: str | None = None
    fewshot: Annotated[int, Field(ge=0)] | None = None
    limit: Limit | None = None
    teacher: str | None = None

    def as_task(self, name: str, metric: str, higher_is_better: bool, shared: int = 1) -> Task:
        return replace(super().as_task(name, metric, higher_is_better, shared), teacher=self.teacher)


class LmEvalSpec(EvaluatorSpec):
    """The tasks a merge is scored on, and how the model is asked.

    `tasks`: mappings, or bare names. `include_path`: folders with task YAML files, searched before
    lm-eval's own. `fewshot_seed` chooses the few-shot examples; its default is lm-eval's, so prompts agree
    with the `lm_eval` command. `batch_tokens` bounds the tokens the model is given at once; it is sized to memory
    where None. `gold_likelihood` adds one log-likelihood request per example of a `generate_until` task, which gives
    these tasks a smooth score at the cost of one more forward pass.
    """

    scores: ClassVar[str | None] = CAUSAL_LM

    evaluator: Literal["lm-eval"] = "lm-eval"
    tasks: Annotated[tuple[Annotated[LmEvalTask, BeforeValidator(_name_or_mapping)], ...], Field(min_length=1)]
    include_path: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] | None = None
    batch_tokens: Annotated[int, Field(ge=1)] | None = None
    chat_template: bool = False
    system_instruction: str | None = None
    fewshot_seed: int = 1234
    gold_likelihood: bool = False

    @model_validator(mode="after")
    def _each_task_once(self) -> "LmEvalSpec":
        names = [entry.task for entry in self.tasks]
        twice = [name for index, name in enumerate(names) if name in names[:index]]
        if twice:
            raise ValueError(f"a task may be listed once, but `{twice[0]}` is listed {names.count(twice[0])} times.")
        return self

    def counted(self) -> list[Counted]:
        return list(self.tasks)

    def located(self, place: Callable[[str], str]) -> Self:
        folders = self.include_path
        return self.model_copy(update={"include_path": folders and tuple(place(folder) for folder in folders)})

    def open(self, setting: Setting) -> Evaluator:
        from evaluators.harness import HarnessEvaluator

        for entry in self.tasks:
            if entry.teacher is not None and entry.teacher not in setting.experts:
                raise EvaluatorError(
                    f"the `teacher` of `{entry.task}` must be an expert of the job, one of "
                    f"{', '.join(setting.experts)}, but is `{entry.teacher}`."
                )
        spec = self.model_copy(update={"gold_likelihood": True}) if setting.smooth else self
        return HarnessEvaluator(spec, setting.splits, setting.tokenizer, allow_code=setting.allow_code)
