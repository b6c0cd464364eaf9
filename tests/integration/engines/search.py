"""A search small enough for tests: any engine on a function, one trial at a time, as a coordinator would run it."""

import sys
from collections.abc import Callable

import optuna
from optuna.distributions import FloatDistribution

from optimizer.engines import ENGINES
from optimizer.engines.protocol import Engine
from optimizer.study import all_trials, open_storage, open_study, running, tell

SPACE = {
    "weight.a": FloatDistribution(0, 1),
    "weight.b": FloatDistribution(-0.5, 1.5),
    "weight.c": FloatDistribution(0, 2),
}
OBJECTIVES = {1: ["score"], 2: ["accuracy", "brevity"]}


def score(parameters: dict[str, float], objectives: int = 1) -> list[float]:
    """A hump in the middle of the space; with two objectives, the second has it elsewhere."""
    peaks = ({"weight.a": 0.7, "weight.b": 0.1, "weight.c": 1.1}, {"weight.a": 0.2, "weight.b": 0.9, "weight.c": 0.4})
    return [-sum((parameters[name] - peak[name]) ** 2 for name in parameters) for peak in peaks[:objectives]]


class Search:
    """Holds a study and an engine, and can lose both."""

    def __init__(self, url: str, engine: str, objectives: int = 1, workers: int = 1) -> None:
        self.study: optuna.Study = open_study(open_storage(url), "search", OBJECTIVES[objectives])
        self.engine: Engine = ENGINES[engine](self.study, SPACE, seed=7, workers=workers)
        self.objectives = objectives

    def finish_open_trials(self) -> None:
        """What a restarted coordinator does first."""
        for trial in running(self.study):
            tell(self.study, trial.number, score(trial.params, self.objectives))

    def step(self) -> None:
        """One trial from proposal to result."""
        trial = self.engine.ask()
        assert trial is not None
        tell(self.study, trial.number, score(trial.params, self.objectives))

    def told(self) -> list[tuple[int, dict[str, float], list[float]]]:
        return [(trial.number, trial.params, trial.values) for trial in all_trials(self.study)]


def run_until(search: Search, trials: int, after: Callable[[], None] = lambda: None) -> None:
    """Go on until the study has that many trials, all told."""
    search.finish_open_trials()
    while len(all_trials(search.study)) < trials:
        search.step()
        after()


if __name__ == "__main__":
    url, name, count = sys.argv[1:]
    search = Search(url, name)
    print("ready", flush=True)
    run_until(search, int(count))
    print("done", flush=True)
