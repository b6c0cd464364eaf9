"""Tell a job's trackers what happens to it, each in a thread of its own.

A tracker is somebody else's server: it may be slow, away, or refuse. The search never waits for it. What it could not
take is said once, in the log, and then it is left alone. After a restart each is told what it has not heard of yet;
that follows from the study and from what the tracker says it has.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from optimizer.bounds import broken
from optimizer.results import Results
from optimizer.trackers import opener
from optimizer.trackers.protocol import Run, Told, Tracker

LAST_SECONDS = 60.0  # how long the end of a job waits for its trackers
_WAITING = 100_000  # calls at most, for a tracker that has stopped answering

Open = Callable[[Run], Tracker]

_log = logging.getLogger(__name__)


class Reporting:
    """The trackers of one attempt at a job. With no names it does nothing, and costs nothing."""

    def __init__(
        self,
        names: Sequence[str],
        run: Run,
        objectives: Sequence[str],
        trials: Callable[[], Iterable[FrozenTrial]],
        open_by: Callable[[str], Open] = opener,
    ) -> None:
        self._objectives, self._trials = tuple(objectives), trials
        self._best: tuple[float, int, float, int] | None = None
        self._best_values: list[float] = []
        self._reporters = [_Reporter(name, open_by(name), run) for name in names]

    def begin(self) -> None:
        """Open the trackers, and tell them of trials that they may not have heard of."""
        if not self._reporters:
            return
        finished = [trial for trial in self._trials() if trial.state.is_finished()]
        before = [self._told(trial) for trial in sorted(finished, key=_when)]
        for reporter in self._reporters:
            reporter.start(before)

    def told(self, trial: FrozenTrial) -> None:
        """A trial has been told. Returns at once."""
        if self._reporters:
            told = self._told(trial)
            for reporter in self._reporters:
                reporter.put(told)

    def done(self, results: Results) -> None:
        """The final report's figures."""
        for reporter in self._reporters:
            reporter.put(final_figures(results))

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Let every tracker send what is left, for so many seconds all together."""
        ends = datetime.now(UTC).timestamp() + seconds
        for reporter in self._reporters:
            reporter.put(None)
        for reporter in self._reporters:
            reporter.wait(ends - datetime.now(UTC).timestamp())

    def _told(self, trial: FrozenTrial) -> Told:
        """The trial's figures, and the best so far: by bounds, then by examples, then by the sum of its values."""
        if trial.state == TrialState.COMPLETE:
            standing = (-broken(trial), trial.user_attrs.get("examples", 0), sum(trial.values), -trial.number)
            if self._best is None or standing > self._best:
                self._best, self._best_values = standing, list(trial.values)
        best = zip(self._objectives, self._best_values, strict=False)
        figures = {**figures_of(trial, self._objectives), **{f"best/{name}": value for name, value in best}}
        return Told(trial.number, _when(trial), figures)


class _Reporter:
    """One tracker and its thread."""

    def __init__(self, name: str, open_tracker: Open, run: Run) -> None:
        self._name, self._open, self._run = name, open_tracker, run
        self._calls: queue.Queue[Told | Mapping[str, float] | None] = queue.Queue(_WAITING)
        self._off = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"report to {name}", daemon=True)
        self._before: list[Told] = []

    def start(self, before: list[Told]) -> None:
        self._before = before
        self._thread.start()

    def put(self, call: Told | Mapping[str, float] | None) -> None:
        if not self._off.is_set():
            try:
                self._calls.put_nowait(call)
            except queue.Full:
                self._give_up(f"it has not answered for {_WAITING:,} trials")

    def wait(self, seconds: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(max(0.0, seconds))
            if self._thread.is_alive():
                self._give_up("it did not take everything in time")

    def _work(self) -> None:
        try:
            tracker = self._open(self._run)
            known = tracker.reported()
            missing = [] if known is None else [told for told in self._before if told.number not in known]
            for told in missing:
                tracker.trial(told)
            while not self._off.is_set():
                call = self._calls.get()
                if call is None:
                    tracker.close()
                    return
                if isinstance(call, Told):
                    tracker.trial(call)
                else:
                    tracker.done(call)
        except Exception as error:  # whatever a server, a network or a missing package may come to
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, reason: str) -> None:
        if not self._off.is_set():
            self._off.set()
            _log.warning("nothing more of job `%s` is reported to %s: %s", self._run.job, self._name, reason)


def figures_of(trial: FrozenTrial, objectives: Sequence[str]) -> dict[str, float]:
    """A told trial's figures: value per objective, mean per task, examples, seconds, and how far beyond its bounds."""
    attributes = trial.user_attrs
    figures: dict[str, float] = {"trial/failed": float(trial.state != TrialState.COMPLETE)}
    for name in ("examples", "seconds", "tokens"):
        if isinstance(attributes.get(name), int | float):
            figures[f"trial/{name}"] = float(attributes[name])
    if trial.state == TrialState.COMPLETE:
        figures |= {f"objective/{name}": value for name, value in zip(objectives, trial.values, strict=True)}
        figures |= {f"task/{task}": means["metric"] for task, means in attributes.get("tasks", {}).items()}
        if trial.constraints:
            figures["trial/beyond bounds"] = broken(trial)
    return figures


def final_figures(results: Results) -> dict[str, float]:
    """The figures of the final report: the winner on the test split with its intervals, and what it all cost."""
    figures: dict[str, float] = {
        "final/examples scored": float(results.examples_scored),
        "final/seconds": results.seconds,
        "final/test openings": float(results.test_openings),
    }
    if results.winner is not None:
        figures["final/winner"] = float(results.winner)
    if results.optimism is not None:
        figures["final/optimism"] = results.optimism
    figures |= {f"final/efe {split}": float(spent) for split, spent in results.efe.items()}
    for standing in results.test:
        if standing.kind == "winner":
            for name, found in standing.objectives.items():
                figures |= {
                    f"final/{name}": found.mean,
                    f"final/{name} low": found.low,
                    f"final/{name} high": found.high,
                }
            figures |= {f"final/task/{task}": found.mean for task, found in standing.tasks.items()}
    return figures


def settings_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """A job file as flat words: `models.experts.math.path`, `search.budget.trials`. What says nothing is left out."""
    found: dict[str, str] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping | list | tuple) for inner in value):
            for place, inner in enumerate(value):
                walk(f"{name}.{place}", inner)
        elif value is not None and value != [] and value != ():
            found[name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    walk("", spec)
    return found


def _when(trial: FrozenTrial) -> datetime:
    """When a finished trial was told. Optuna's times have no zone, and mean this machine's."""
    return (trial.datetime_complete or trial.datetime_start or datetime.now()).astimezone(UTC)
