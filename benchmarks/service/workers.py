"""How busy one coordinator keeps many workers: `python -m benchmarks.service.workers`.

Trials take 30 s of a clock that jumps where everybody waits: the coordinator's own work, the database's and what the
machine's other processes do to them count in full, second by second, so minutes of computing stand for hours of
workers. `--real` sleeps instead. The share of busy workers is over the time from the first trial to the last one given
out; for each stage it says how long the coordinator was in it for a trial.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from benchmarks.service.databases import databases
from benchmarks.service.job import Attempt, SimulatedJob, job_file
from benchmarks.service.simulated import Clock, Scaled, SimulatedPool, Skipping, lasting
from optimizer.engines.protocol import Engine


@dataclass(frozen=True)
class Row:
    """`busy` is a share. `stages` are milliseconds of the coordinator for each trial, `rest` among them."""

    engine: str
    workers: int
    trials: int
    busy: float
    hours: float
    stages: dict[str, float]


@dataclass
class Stages:
    """Seconds of the clock by what the coordinator was doing; what a stage calls that is one itself, is not its own."""

    clock: Clock
    seconds: dict[str, float] = field(default_factory=dict)
    _inside: list[float] = field(default_factory=list)

    def of(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            began = self.clock.now()
            try:
                return call(*args, **kwargs)
            finally:
                took = self.clock.now() - began
                self.seconds[name] = self.seconds.get(name, 0.0) + took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        return timed


def main() -> None:
    options = _options()
    rows = []
    with databases(options.database) as new:
        for engine in options.engines:
            for workers in options.workers:
                clock = Scaled() if options.real else Skipping()
                pool = SimulatedPool(workers, lasting(options.seconds, options.spread), clock)
                rows.append(measured(new(), engine, pool, workers * options.waves, options.parameters))
                if options.json:
                    print(json.dumps(asdict(rows[-1])), flush=True)
    if not options.json:
        Console(width=140).print(table(rows, options.seconds))


def measured(url: str, engine: str, pool: SimulatedPool, trials: int, parameters: int) -> Row:
    """A whole search of so many trials."""
    job = SimulatedJob(url, job_file(engine, trials), parameters=parameters)
    attempt = job.attempt(pool, pool.workers)
    stages = Stages(pool.clock)
    began = pool.clock.now()
    _watch(attempt, pool, stages)
    attempt.coordinator.search()
    attempt.end()
    return Row(
        engine,
        pool.workers,
        len(pool.asked),
        busy=busy_share(pool),
        hours=(pool.clock.now() - began) / 3600,
        stages={name: 1000 * seconds / trials for name, seconds in stages.seconds.items()},
    )


def busy_share(pool: SimulatedPool) -> float:
    """Worker seconds by what there were, from the first unit to the last one that was given out."""
    begun, until = pool.spans[0][0], pool.spans[-1][0]
    return sum(min(end, until) - start for start, end in pool.spans) / (pool.workers * (until - begun))


def _watch(attempt: Attempt, pool: SimulatedPool, stages: Stages) -> None:
    """Put a watch on what the coordinator does for a trial. `next` and `tell` are without what they call `ask`."""
    for owner, name, stage in (
        (pool, "wait", "wait"),
        (attempt.scorer, "record", "record"),
        (attempt.coordinator, "_tell", "tell"),
        (attempt.coordinator, "_next", "next"),
    ):
        setattr(owner, name, stages.of(stage, getattr(owner, name)))
    attempt.coordinator.engine = _WatchedEngine(attempt.engine, stages.of("ask", attempt.engine.ask))


@dataclass
class _WatchedEngine:
    """An engine whose `ask` is another call."""

    engine: Engine
    ask: Callable[[], FrozenTrial | None]

    @property
    def recommends(self) -> bool:
        return self.engine.recommends

    def begin_at(self, start: Mapping[str, Any]) -> None:
        self.engine.begin_at(start)

    def recommend(self) -> Mapping[str, Any] | None:
        return self.engine.recommend()


def table(rows: Sequence[Row], seconds: float) -> Table:
    """What was measured, a row for each engine and number of workers."""
    names = [name for name in rows[0].stages if name != "wait"]
    made = Table(title=f"Simulated workers with trials of {seconds:g} s; milliseconds of the coordinator for a trial")
    for name in ("engine", "workers", "trials", "busy", "hours", *names):
        made.add_column(name, justify="left" if name == "engine" else "right")
    for row in rows:
        figures = [f"{row.stages[name]:.1f}" for name in names]
        made.add_row(row.engine, str(row.workers), f"{row.trials:,}", f"{row.busy:.1%}", f"{row.hours:.2f}", *figures)
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--engines", nargs="+", default=["random", "cma-es"])
    parser.add_argument("--workers", nargs="+", type=int, default=[256])
    parser.add_argument("--waves", type=int, default=6, help="trials for each worker")
    parser.add_argument("--seconds", type=float, default=30.0, help="what a trial takes")
    parser.add_argument("--spread", type=float, default=0.0, help="the share by which trials are shorter or longer")
    parser.add_argument("--parameters", type=int, default=32)
    parser.add_argument("--real", action="store_true", help="sleep instead of jumping")
    parser.add_argument("--json", action="store_true", help="one line for each row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
