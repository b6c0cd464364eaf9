"""What every evaluator's entry in a job file can be asked, whatever it scores."""

from collections.abc import Callable
from typing import ClassVar, Self

from evaluators.counted import Counted, Name
from evaluators.data import DataField
from evaluators.frozen import Frozen
from evaluators.protocol import Evaluator
from evaluators.setting import Setting
from evaluators.shares import Limit

CAUSAL_LM = "causal-lm"
SEQUENCE_CLASSIFICATION = "sequence-classification"


class EvaluatorSpec(Frozen):
    """One entry of `evaluate`. A kind of evaluator is one file with a subclass of this, and one line in `spec.py`."""

    scores: ClassVar[str | None] = None
    """The kind of model (`models.load`) it can score; None where it does not matter."""

    def counted(self) -> list[Counted]:
        """Its tasks as far as the file names them: what counts towards which objective, and what is bounded."""
        raise NotImplementedError

    def located(self, place: Callable[[str], str]) -> Self:  # noqa: ARG002 - most have no paths
        """The same with every path in it put through `place`, which makes it absolute."""
        return self

    def runs(self) -> list[str]:
        """The user's own code it runs: files or modules with their functions, for a note at submit."""
        return []

    def open(self, setting: Setting) -> Evaluator:
        """The evaluator, its documents read and split. Raises `EvaluatorError`; imports what is slow only here."""
        raise NotImplementedError


class OneTaskSpec(EvaluatorSpec, Counted):
    """An entry that is one task: its name, its documents, and at most how many of them in each split."""

    name: Name
    data: DataField
    limit: Limit | None = None

    def counted(self) -> list[Counted]:
        return [self]

    def located(self, place: Callable[[str], str]) -> Self:
        return self.model_copy(update={"data": self.data.located(place)})
