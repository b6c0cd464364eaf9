"""What a job file says about evaluation: which tasks, how they are asked, how examples are split."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

PositiveWeight = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _name_or_mapping(value: Any) -> Any:
    return {"task": value} if isinstance(value, str) else value


class _Frozen(BaseModel):
    """A value that is checked once, when it is made, and trusted afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _number_or_mapping(value: Any) -> Any:
    return (
        dict.fromkeys(("search", "select", "test"), value)
        if isinstance(value, int) and not isinstance(value, bool)
        else value
    )


class Splits(_Frozen):
    """The weights by which a task's examples are dealt to the splits. They need not add up to 1.

    A task with validation and test documents of its own deals the validation documents to `search` and
    `select` (in the ratio of these two weights) and keeps its test documents for `test`.
    """

    search: PositiveWeight = 0.6
    select: PositiveWeight = 0.2
    test: PositiveWeight = 0.2


class Limits(_Frozen):
    """At most so many examples of a task in each split; None leaves a split whole."""

    search: AtLeastOne | None = None
    select: AtLeastOne | None = None
    test: AtLeastOne | None = None


class LmEvalTask(_Frozen):
    """One lm-eval task, group or tag; a group or tag stands for its leaf tasks, which share `weight` equally.

    `metric`: the task's first metric that is a mean over examples where None. `filter`: the task's first
    filter where None. `objective`: the name of the objective this task counts towards, with `weight`.
    `fewshot`: examples shown in the prompt, the task's own number where None. `limit`: at most so many
    examples in each split, one number for all or a number for each, the ones whose ids come first, so that the choice
    does not depend on the order of the data file.
    """

    task: Annotated[str, Field(min_length=1)]
    metric: str | None = None
    filter: str | None = None
    weight: PositiveWeight = 1.0
    objective: Annotated[str, Field(min_length=1)] = "score"
    fewshot: Annotated[int, Field(ge=0)] | None = None
    limit: Annotated[Limits | None, BeforeValidator(_number_or_mapping)] = None


class LmEvalSpec(_Frozen):
    """The tasks a merge is scored on, and how the model is asked.

    `tasks`: mappings, or bare names. `include_path`: folders with task YAML files, searched before
    lm-eval's own. `fewshot_seed` chooses the few-shot examples; its default is lm-eval's, so prompts agree
    with the `lm_eval` command. `batch_tokens` bounds the tokens the model is given at once; it is sized to memory where
    None. `gold_likelihood` adds one log-likelihood request per example of a
    `generate_until` task, which gives these tasks a smooth score at the cost of one more forward pass.
    """

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
