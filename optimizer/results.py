"""Everything a report shows about a job, as plain data."""

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from optimizer.cost import Cost, summed
from optimizer.statistics import Difference, Estimate

Origin = Literal["baseline", "search", "recommendation"]
Kind = Literal["base", "parent", "baseline", "winner", "finalist"]
TrialState = Literal["waiting", "running", "complete", "failed"]

ByExpert = dict[tuple[str, str], dict[int | None, float]]

# Unknown keys and numbers that are not finite are refused: not scored is absent, never NaN.
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_LAYER = re.compile(r"layer\.(\d+)(?:\.(.+))?")


@dataclass(frozen=True, config=_STRICT)
class Objective:
    """What the search optimises: the weighted mean of the tasks that name it."""

    name: str
    higher_is_better: bool = True


@dataclass(frozen=True, config=_STRICT)
class TaskInfo:
    """A task's metric, how much it counts, and the objective it counts for."""

    name: str
    metric: str
    weight: float = 1.0
    higher_is_better: bool = True
    objective: str | None = "score"
    bound: str | None = None


@dataclass(frozen=True, config=_STRICT)
class Kept:
    """How a model keeps a bound: the task's mean, or its mean minus the named model's, with a 95 % interval.

    `bound` is the limit in words, `violation` how far the mean is beyond it, zero or less where it is kept. `surely`
    says that the whole interval lies on the mean's side of the limit.
    """

    task: str
    bound: str
    measured: Estimate
    violation: float
    surely: bool

    @property
    def verdict(self) -> str:
        """In words: `kept`, `broken`, and whether that is sure."""
        return ("kept" if self.violation <= 0 else "broken") + ("" if self.surely else ", not surely")


@dataclass(frozen=True, config=_STRICT)
class TrialRow:
    """One candidate as it was scored on the search split.

    `values` is the estimate told for each objective, `tasks` the means per task: `{"metric": 0.81, "smooth":
    0.64}`, `smooth` only where the task has one. Both are empty for a trial without a score. `examples`
    counts the examples scored for this trial, `seconds` the worker time; `started` and `finished` are ISO
    8601 times. `cost` is None where a trial was scored by an attempt that died before it told. `beyond` is by how much
    it breaks the job's bounds in all, 0 where it keeps them. `standard_error` is that of the first objective's
    estimate; None where it is not known.
    """

    number: int
    origin: Origin
    label: str
    state: TrialState
    values: dict[str, float]
    tasks: dict[str, dict[str, float]]
    parameters: dict[str, Any]
    digest: str
    examples: int
    seconds: float
    error: str | None = None
    started: str | None = None
    finished: str | None = None
    cost: Cost | None = None
    beyond: float = 0.0
    standard_error: float | None = None


@dataclass(frozen=True, config=_STRICT)
class Front:
    """The trials that no other trial beats on every objective, by their estimates on the search split.

    `trials` are their numbers in order. `hypervolume` is the volume that they dominate above `reference` (a value per
    objective), in the product of the objectives' units. `knee` is the trial that lies furthest above the plane through
    the front's extremes, None where none lies above it.
    """

    trials: tuple[int, ...]
    hypervolume: float
    reference: dict[str, float]
    knee: int | None


@dataclass(frozen=True, config=_STRICT)
class Standing:
    """One model on a split that the search did not look at.

    `objectives` and `tasks` are its scores with intervals; `difference` is the winner minus this model on the
    same examples (None for the winner itself), per objective and, in `task_difference`, per task with
    p-values adjusted by Holm over the tasks. `kept` has the job's bounds, in the order of the tasks.
    """

    trial: int | None
    label: str
    origin: Origin
    kind: Kind
    objectives: dict[str, Estimate]
    tasks: dict[str, Estimate]
    difference: dict[str, Difference] | None = None
    task_difference: dict[str, Difference] | None = None
    kept: tuple[Kept, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether it keeps every bound of the job on this split, by its means."""
        return all(one.violation <= 0 for one in self.kept)

    @property
    def distinguishable(self) -> bool | None:
        """Whether the winner differs from this model on any objective; None where nothing was compared."""
        if self.difference is None:
            return None
        return any(difference.distinguishable for difference in self.difference.values())


@dataclass(frozen=True, config=_STRICT)
class Results:
    """A job and what came of it, finished or not.

    `state` is the job's state as the database has it. `splits` gives the examples in each split, `select` the
    finalists on the select split, `test` the winner, parents and baselines on the test split (empty before it
    was opened). `optimism` is the winner's search score minus its test score, in the sense that positive
    means the search score was too good; the first objective's, None before the test. `test_openings` counts
    how often the test split was looked at. `coefficients` are the winner's: group, then expert. `budget` and
    `seconds` (wall time) describe the run; `versions` names the software; `created` is an ISO 8601 time.

    `efe` is the cost by split (gradient, search, select): 1 for a scored example, 3 for one in a gradient batch.
    `tested` counts the examples scored on the test split, which are nobody's search and are not charged. `notes` are
    sentences on what the search decided and why. `front` is None unless there are several objectives.
    """

    job: str
    state: str
    engine: str
    method: str
    space: str
    seed: int
    objectives: tuple[Objective, ...]
    tasks: tuple[TaskInfo, ...]
    splits: dict[str, int]
    trials: tuple[TrialRow, ...]
    select: tuple[Standing, ...]
    test: tuple[Standing, ...]
    winner: int | None
    optimism: float | None
    test_openings: int
    coefficients: dict[str, dict[str, float]]
    budget: dict[str, float]
    examples_scored: int
    seconds: float
    versions: dict[str, str]
    created: str
    base: str | None = None
    experts: tuple[str, ...] = ()
    signal: str = "metric"
    error: str | None = None
    efe: dict[str, int] = field(default_factory=dict)
    tested: int = 0
    notes: tuple[str, ...] = ()
    front: Front | None = None

    @property
    def cost(self) -> Cost | None:
        """Where the search's worker time went; None where no trial recorded it."""
        return summed(trial.cost for trial in self.trials if trial.cost is not None)

    @property
    def objective(self) -> Objective:
        """The first objective: the one that sorts tables."""
        return self.objectives[0]


_RESULTS: TypeAdapter[Results] = TypeAdapter(Results)


def to_json(results: Results) -> dict[str, Any]:
    """Plain dicts, lists, strings and numbers, in the order of the fields."""
    data: dict[str, Any] = _RESULTS.dump_python(results, mode="json")
    return data


def from_json(data: Mapping[str, Any]) -> Results:
    """The results `to_json` wrote. Raises pydantic's ValidationError (a ValueError) on unknown or missing
    keys.
    """
    return _RESULTS.validate_python(dict(data))


def completed(results: Results, objective: Objective) -> list[TrialRow]:
    """The trials that have a value for the objective, in order of their numbers."""
    rows = [t for t in results.trials if t.state == "complete" and objective.name in t.values]
    return sorted(rows, key=lambda t: t.number)


def ranked(results: Results, objective: Objective) -> list[TrialRow]:
    """The completed trials, best first; of equals the earlier one first. Those that break a bound come last."""
    sign = -1.0 if objective.higher_is_better else 1.0
    return sorted(completed(results, objective), key=lambda t: (t.beyond, sign * t.values[objective.name], t.number))


def keeping(rows: list[TrialRow]) -> list[TrialRow]:
    """The trials that keep the job's bounds; all of them where none does."""
    return [row for row in rows if row.beyond == 0] or rows


def better(objective: Objective, a: float, b: float) -> bool:
    """True where `a` is strictly better than `b`."""
    return a > b if objective.higher_is_better else a < b


def best_standing(standings: tuple[Standing, ...], kinds: tuple[Kind, ...], objective: Objective) -> Standing | None:
    """The best model of these kinds by its mean on the objective; of equals the first. None where there is
    none. Models that keep the job's bounds go before those that do not.
    """
    found: Standing | None = None
    named = [one for one in standings if one.kind in kinds and objective.name in one.objectives]
    for standing in [one for one in named if one.feasible] or named:
        mean = standing.objectives[objective.name].mean
        if found is None or better(objective, mean, found.objectives[objective.name].mean):
            found = standing
    return found


def sorted_standings(standings: tuple[Standing, ...], objective: Objective) -> list[Standing]:
    """Best first by their means on the objective, of equals the winner first; models without a score last."""
    sign = -1.0 if objective.higher_is_better else 1.0

    def key(standing: Standing) -> tuple[bool, float, bool]:
        found = standing.objectives.get(objective.name)
        # Rounded: means that are equal over several tasks may differ in their last bit.
        return (found is None, round(sign * found.mean, 9) if found else 0.0, standing.kind != "winner")

    return sorted(standings, key=key)


def winner_label(results: Results) -> str | None:
    """What the winner is called: its label on the test or select split, or among the trials."""
    for standing in (*results.test, *results.select):
        if standing.kind == "winner":
            return standing.label
    for trial in results.trials:
        if trial.number == results.winner:
            return trial.label
    return None


def place(group: str) -> tuple[int | None, str]:
    """Layer and module of a group's name: `layer.3.mlp` gives (3, "mlp"), `head` gives (None, "head")."""
    found = _LAYER.fullmatch(group)
    if found is None:
        return None, group
    return int(found.group(1)), found.group(2) or "all"


def by_expert(coefficients: Mapping[str, Mapping[str, float]]) -> ByExpert:
    """(expert, module) -> layer (None outside the layers) -> coefficient; experts together, in their order."""
    experts = list(dict.fromkeys(name for row in coefficients.values() for name in row))
    found: ByExpert = {}
    for expert in experts:
        for group, row in coefficients.items():
            if expert in row:
                layer, module = place(group)
                found.setdefault((expert, module), {})[layer] = row[expert]
    return found


def reason(trial: TrialRow) -> str:
    """The last line of a failed trial's error: of a traceback, the message."""
    lines = (trial.error or "").strip().splitlines()
    return lines[-1] if lines else "no reason recorded"
