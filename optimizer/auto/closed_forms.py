"""Have closed-form merges made, where that is not too dear."""

from collections.abc import Mapping, Sequence

from optimizer.auto.asks import Made, Note, Virtual
from optimizer.auto.state import Asking, State
from optimizer.auto.values import task_of
from optimizer.calibration import EFE
from optimizer.virtual import STATISTICS
from optimizer.virtual import Virtual as Kind

MOST = 0.1  # of what is left, that one may cost


def made(state: State, name: Kind, examples: Mapping[str, Sequence[str]], scored: int) -> Asking:
    """Whether the virtual expert is there; a note says why not.

    It is paid for by its calibration `examples`, and has to leave room for the `scored` that it is then looked at on.
    """
    cost = price(name, examples)
    if cost + scored > MOST * state.left or state.over():
        yield [Note(f"The virtual expert {name} was left out: it would take more than a tenth of the budget.")]
        return False
    state.spent += cost
    answer = (yield [Virtual(name, {expert: tuple(ids) for expert, ids in examples.items()})])[0]
    assert isinstance(answer, Made)
    if answer.error is not None:
        yield [Note(f"The virtual expert {name} could not be made: {answer.error}")]
    return answer.error is None


def price(kind: Kind, examples: Mapping[str, Sequence[str]]) -> int:
    """What making a virtual expert takes, in EFE; for Gram matrices an example of each task is scored once more."""
    statistics = STATISTICS.get(kind)
    if statistics is None:
        return 0
    once_more = sum(len({task_of(one) for one in ids}) for ids in examples.values()) if statistics == "gram" else 0
    return EFE[statistics] * sum(map(len, examples.values())) + once_more
