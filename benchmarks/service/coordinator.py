"""The coordinator's time for a trial beside Optuna's own ask and tell: `python -m benchmarks.service.coordinator`.

Ours is everything between one submitted unit and the next with one worker that answers at once: outcomes recorded,
means and attributes told, the engine asked, the recipe made, the next trial opened; every transaction asks whether the
job is still held. Optuna's is `study.ask` with the same parameters and `study.tell`, with a sampler of the same kind
and no more. Both go on from a study with as many told trials; blocks of the two take turns, and the ratio is that of
the medians.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.service.databases import analyzed, databases
from benchmarks.service.filling import bowl, fill, fill_outcomes, told_by
from benchmarks.service.job import SimulatedJob, job_file
from benchmarks.service.simulated import SimulatedPool, Skipping
from optimizer.engines.protocol import Distributions
from optimizer.pool import Answer, Unit
from optimizer.scorer import Interrupted
from optimizer.study import open_storage

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "cma-es": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
}
WARM = 20  # trials of a block that are not counted: caches fill, statements are prepared


@dataclass
class Times:
    """Seconds for each trial, of the clock and of this process's processor; and until the first could begin."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    loading: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """Milliseconds, medians over the trials of all blocks. `ratio` is ours by Optuna's, of the clock."""

    engine: str
    told: int
    ours: float
    optuna: float
    ratio: float
    ours_processor: float
    optuna_processor: float
    ours_loading: float
    optuna_loading: float


@dataclass
class TimedPool(SimulatedPool):
    """Notes the moments at which units come."""

    moments: list[tuple[float, float]] = field(default_factory=list)
    _excused: float = 0.0  # of the processor

    def submit(self, unit: Unit) -> None:
        super().submit(unit)
        self.moments.append((self.clock.now(), time.process_time() - self._excused))

    def wait(self, seconds: float) -> list[Answer]:
        began = time.process_time()
        found = super().wait(seconds)
        self._excused += time.process_time() - began
        return found


def main() -> None:
    options = _options()
    rows = []
    with databases(options.database) as new:
        for engine in options.engines:
            for told in options.told:
                rows.append(measured(new(), engine, told, options.parameters, options.trials, options.rounds))
                if options.json:
                    print(json.dumps(asdict(rows[-1])), flush=True)
                else:
                    print(f"{engine}, {told} told: {rows[-1].ratio:.2f} of Optuna's", file=sys.stderr, flush=True)
    if not options.json:
        Console(width=120).print(table(rows, options.database, options.parameters))


def measured(url: str, engine: str, told: int, parameters: int, trials: int, rounds: int) -> Row:
    """Both contestants in one database, taking turns."""
    job = SimulatedJob(url, job_file(engine, trials=10**6), parameters=parameters)
    distributions: Distributions = job.plan.space(job.file).distributions()  # type: ignore[assignment]
    assert len(distributions) == parameters
    start = job.plan.start
    assert start is not None
    storage = open_storage(url)
    study = job.study(storage)
    past = list(told_by(engine, distributions, start, job.file.search.seed, told))
    theirs = optuna.create_study(storage=storage, study_name="theirs", direction="maximize")
    if past:
        fill(storage, study, distributions, past, attributes=True)
        fill(storage, theirs, distributions, past, attributes=False)
        fill_outcomes(job.database, job.id, range(told), job.examples)
    analyzed(url)
    storage.engine.dispose()
    ours, optunas = Times(), Times()
    for place in range(rounds):
        _ours(job, trials, ours)
        _optunas(url, SAMPLERS[engine](place), distributions, trials, optunas)
    return Row(
        engine,
        told,
        ours=_milliseconds(ours.wall),
        optuna=_milliseconds(optunas.wall),
        ratio=statistics.median(ours.wall) / statistics.median(optunas.wall),
        ours_processor=_milliseconds(ours.processor),
        optuna_processor=_milliseconds(optunas.processor),
        ours_loading=_milliseconds(ours.loading),
        optuna_loading=_milliseconds(optunas.loading),
    )


def _ours(job: SimulatedJob, trials: int, times: Times) -> None:
    """One attempt at the job that goes on for so many trials, then is interrupted."""
    began = time.perf_counter()
    pool = TimedPool(workers=1, seconds=lambda _: 0.0, clock=Skipping())
    wanted = len(job.plan.baselines) + WARM + trials + 1

    def check() -> None:
        if len(pool.moments) >= wanted:
            raise Interrupted("interrupt")

    attempt = job.attempt(pool, workers=1, check=check)
    with contextlib.suppress(Interrupted):
        attempt.coordinator.search()
    attempt.end()
    times.loading.append(pool.moments[0][0] - began)
    steps = list(zip(pool.moments, pool.moments[1:], strict=False))[-trials:]
    times.wall += [after[0] - before[0] for before, after in steps]
    times.processor += [after[1] - before[1] for before, after in steps]


def _optunas(
    url: str, sampler: optuna.samplers.BaseSampler, distributions: Distributions, trials: int, times: Times
) -> None:
    """Optuna's own loop, as its documentation has it."""
    began = time.perf_counter()
    study = optuna.load_study(study_name="theirs", storage=open_storage(url), sampler=sampler)
    _one_of_optunas(study, distributions)
    times.loading.append(time.perf_counter() - began)
    for place in range(WARM + trials):
        wall, processor = time.perf_counter(), time.process_time()
        _one_of_optunas(study, distributions)
        if place >= WARM:
            times.wall.append(time.perf_counter() - wall)
            times.processor.append(time.process_time() - processor)


def _one_of_optunas(study: optuna.Study, distributions: Distributions) -> None:
    trial = study.ask({**distributions})
    unit = [(trial.params[name] - one.low) / (one.high - one.low) for name, one in distributions.items()]
    study.tell(trial, bowl(np.array(unit)))


def _milliseconds(seconds: Sequence[float]) -> float:
    return 1000 * statistics.median(seconds)


def table(rows: Sequence[Row], database: str, parameters: int) -> Table:
    """What was measured, a row for each engine and number of told trials."""
    made = Table(title=f"Milliseconds for a trial, {database}, {parameters} parameters")
    for name in ("engine", "told", "ours", "Optuna's", "ratio", "ours, processor", "Optuna's", "start", "Optuna's"):
        made.add_column(name, justify="left" if name == "engine" else "right")
    for row in rows:
        figures = (row.ours, row.optuna, row.ours_processor, row.optuna_processor, row.ours_loading, row.optuna_loading)
        said = [f"{figure:,.1f}" for figure in figures]
        made.add_row(row.engine, f"{row.told:,}", *said[:2], f"{row.ratio:.2f}", *said[2:])
    return made


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--engines", nargs="+", choices=tuple(SAMPLERS), default=list(SAMPLERS))
    parser.add_argument("--told", nargs="+", type=int, default=[0, 1000, 3000, 10_000], help="trials told before")
    parser.add_argument("--parameters", type=int, default=32)
    parser.add_argument("--trials", type=int, default=40, help="measured in each block")
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each contestant")
    parser.add_argument("--json", action="store_true", help="one line for each row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
