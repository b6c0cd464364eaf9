"""What a contestant sees of a landscape: every example charged, test out of sight, nothing beyond the budget."""

from collections.abc import Mapping, Sequence

from benchmarks.search.landscape import Coefficients, Landscape, Widening
from evaluators.protocol import SPLITS, Outcome, Split, Task
from merging.groups import Group
from optimizer.efe import DIFFERENTIATED, SCORED
from optimizer.virtual import Virtual


class Refused(ValueError):
    """A contestant asked for what it may not have."""


class Meter:
    """A landscape without its test split. `spent` is in EFE; an example asked for twice is charged twice."""

    def __init__(self, landscape: Landscape, budget: int) -> None:
        self._landscape, self.budget = landscape, budget
        self.spent = 0
        self.ids: Mapping[Split, Sequence[str]] = {
            split: tuple(landscape.ids[split]) for split in SPLITS if split != "test"
        }
        self._open = frozenset(name for names in self.ids.values() for name in names)

    @property
    def name(self) -> str:
        return self._landscape.name

    @property
    def experts(self) -> tuple[str, ...]:
        return self._landscape.experts

    @property
    def groups(self) -> tuple[Group, ...]:
        return self._landscape.groups

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self._landscape.tasks

    def score(self, coefficients: Coefficients, ids: Sequence[str]) -> list[Outcome]:
        """See `Landscape.score`. Raises `Refused` for an example of test, and for what the budget has no room for."""
        self._charge(ids, SCORED)
        return self._landscape.score(coefficients, ids)

    def gradient(
        self, coefficients: Coefficients, ids: Sequence[str], scales: Mapping[str, float]
    ) -> tuple[Coefficients, list[float]]:
        """See `Landscape.gradient`. Raises `Refused` as `score` does."""
        self._charge(ids, DIFFERENTIATED)
        return self._landscape.gradient(coefficients, ids, scales)

    @property
    def widens(self) -> tuple[Virtual, ...]:
        return self._landscape.widens if isinstance(self._landscape, Widening) else ()

    def widen(self, name: str, examples: Mapping[str, Sequence[str]]) -> None:
        """See `Widening.widen`. Raises `Refused` as `score` does."""
        assert isinstance(self._landscape, Widening)
        self._charge([one for ids in examples.values() for one in ids], SCORED)
        self._landscape.widen(name, examples)

    def _charge(self, ids: Sequence[str], each: int) -> None:
        for name in ids:
            if name not in self._open:
                raise Refused(f"a contestant may look at gradient, search and select, but `{name}` is in none of them.")
        cost = each * len(ids)
        if self.spent + cost > self.budget:
            raise Refused(
                f"a contestant may spend {self.budget} EFE, but has spent {self.spent} and asks for {cost} more. "
                "Let it look at what is left before it asks."
            )
        self.spent += cost
