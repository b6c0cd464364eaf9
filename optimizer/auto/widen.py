"""Let closed-form merges join the experts, so that the search mixes what it would otherwise only be compared with."""

from collections.abc import Mapping, Sequence

from optimizer.auto.asks import Candidate, Made, Note, Recommend, Virtual
from optimizer.auto.screen import FIRST, SECOND
from optimizer.auto.state import Asking, State
from optimizer.auto.values import task_of
from optimizer.calibration import EFE, own_tasks
from optimizer.virtual import STATISTICS
from optimizer.virtual import Virtual as Kind

CALIBRATION = 16  # examples per expert; 8 to 128 gave merges within a point of each other
MOST = 0.1  # of what is left, that one may cost


def widen(state: State, leader: Candidate) -> Asking:
    """The leader, or the best closed-form merge, unless that is worse by more than the standard error.

    Both were scored on the screen's examples. The leader was chosen there as the best of many, partly by luck; the
    closed-form merge was not, and is fitted to all experts: it has the benefit of the doubt. One that does not lead
    stays a direction to move in.
    """
    best = leader
    for name in state.problem.virtual:
        examples = _examples(state, name)
        cost = price(name, examples)
        if cost + FIRST + SECOND > MOST * state.left or state.over():
            yield [Note(f"The virtual expert {name} was left out: it would take more than a tenth of the budget.")]
            continue
        state.spent += cost
        answer = (yield [Virtual(name, examples)])[0]
        assert isinstance(answer, Made)
        if answer.error is not None:
            yield [Note(f"The virtual expert {name} could not be made: {answer.error}")]
            continue
        state.joined.append(name)
        found = state.candidate(state.frame.one_hot(name), "baseline", name)
        ids = list(state.outcomes(leader))
        yield from state.score([(found, ids)])
        if found.number in state.failed:
            continue
        difference, error = state.paired(found, best)
        if difference >= -error if best is leader else difference > 0:
            best = found
            yield [Recommend(best.place)]
    return best


def price(kind: Kind, examples: Mapping[str, Sequence[str]]) -> int:
    """What making a virtual expert takes, in EFE; for Gram matrices an example of each task is scored once more."""
    statistics = STATISTICS.get(kind)
    if statistics is None:
        return 0
    once_more = sum(len({task_of(one) for one in ids}) for ids in examples.values()) if statistics == "gram" else 0
    return EFE[statistics] * sum(map(len, examples.values())) + once_more


def _examples(state: State, kind: Kind) -> dict[str, tuple[str, ...]]:
    """Calibration examples for every expert, of the tasks it is the best at; none where none are needed."""
    if kind not in STATISTICS:
        return {}
    tasks = list(state.problem.measure.counted())
    means = {expert: _by_task(state, label, tasks) for expert, label in state.problem.parents.items()}
    return {
        expert: state.fresh("gradient", CALIBRATION, f"calibration of {expert}", own)
        for expert, own in own_tasks(means).items()
    }


def _by_task(state: State, label: str, tasks: list[str]) -> dict[str, float]:
    """A parent's mean on every task, from the screen."""
    parent = next(one for one in state.candidates if one.label == label)
    known = state.outcomes(parent)
    found = {}
    for task in tasks:
        ids = [one for one in known if task_of(one) == task]
        found[task] = state.mean(parent, ids) if ids else 0.0
    return found
