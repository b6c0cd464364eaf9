"""Let closed-form merges join the experts, so that the search mixes what it would otherwise only be compared with."""

from optimizer.auto.asks import Candidate, Recommend
from optimizer.auto.closed_forms import made
from optimizer.auto.screen import FIRST, SECOND
from optimizer.auto.state import Asking, State
from optimizer.auto.values import task_of
from optimizer.calibration import own_tasks
from optimizer.virtual import STATISTICS
from optimizer.virtual import Virtual as Kind

SURELY = 3.0  # standard errors
CALIBRATION = 16  # examples per expert; 8 to 128 gave merges within a point of each other


def widen(state: State, leader: Candidate) -> Asking:
    """The leader, or the best closed-form merge, unless that is worse by more than the standard error.

    Both were scored on the screen's examples. The leader was chosen there as the best of many, partly by luck; the
    closed-form merge was not, and is fitted to all experts: it has the benefit of the doubt. A calibrated one leads
    unless it is surely worse, since searches get further from it: on a zoo of benchmarks/search six gradient steps took
    RegMean from 86 to 92 points, and TIES, which had won the screen, from 87 to 89. Until then it is recommended only
    within the standard error. One that does not lead stays a direction to move in.
    """
    best = leader
    for name in state.problem.virtual:
        if name in state.problem.screened:  # has had its chance
            continue
        if not (yield from made(state, name, _examples(state, name), scored=FIRST + SECOND)):
            continue
        state.joined.append(name)
        found = state.candidate(state.frame.one_hot(name), "baseline", name)
        ids = list(state.outcomes(leader))
        yield from state.score([(found, ids)])
        if found.number in state.failed:
            continue
        difference, error = state.paired(found, best)
        doubt = SURELY if name in STATISTICS else 1.0
        if difference >= -doubt * error if best is leader else difference > 0:
            best = found
            yield [Recommend(best.place)] if difference >= -error else []
    return best


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
