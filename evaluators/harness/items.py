"""A task as lm-eval built it, and its examples ready to be asked."""

from dataclasses import dataclass, field
from typing import Any

from evaluators.protocol import Example, Task
from evaluators.splits import Document

# A request as `HFLM._loglikelihood_tokens` takes it: both strings, the context's tokens, the continuation's.
Encoded = tuple[tuple[str, str], list[int], list[int]]


@dataclass(frozen=True)
class Asked:
    """A leaf task as lm-eval built it, with what this evaluator reads from it."""

    lm_task: Any
    about: Task
    filter: Any
    shots: int

    @property
    def kind(self) -> str:
        return str(self.lm_task.OUTPUT_TYPE)


@dataclass
class Item:
    """One example, ready to be asked: lm-eval's requests and the gold answer.

    `pairs` are the (context, continuation) strings whose log-likelihood is wanted. `gold` are the indices
    of the gold choices among `choices`, for multiple choice. `answers` is how many texts are asked for: greedy answers
    to the same question are the same, so one stands for all. `golden` is the gold answer of a `generate_until` task as
    it is asked for a loss, made when it is first wanted.
    """

    example: Example
    asked: Asked
    document: Document
    instances: list[Any]
    pairs: list[tuple[str, str]]
    choices: list[str] = field(default_factory=list)
    gold: tuple[int, ...] = ()
    answers: int = 1
    encoded: list[Encoded] = field(default_factory=list)
    golden: list[Encoded] = field(default_factory=list)
