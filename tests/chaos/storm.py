"""A storm: jobs in a town, disturbances at random moments until they are done, and what has become of them then."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from optimizer.database import normalise_url
from optimizer.tables import jobs
from tests.chaos.checks import Answer, Witness, answer_of, check, check_budget
from tests.chaos.disturbances import TABLE
from tests.chaos.jobs import WORKERS, budget_of
from tests.chaos.town import Town, town
from tests.postgres import PostgresServer

ENGINES = tuple(WORKERS)
PATIENCE = 300.0  # seconds for jobs to be done once nothing befalls them any more
Say = Callable[[str], None]


@dataclass
class Tally:
    """What befell, by kind, and how many attempts the jobs took."""

    befell: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    attempts: int = 0

    @property
    def kills(self) -> int:
        """How many of them were kill -9."""
        return sum(count for kind, count in self.befell.items() if TABLE[kind][2])

    def add(self, other: "Tally") -> None:
        """Count what another storm has done."""
        self.befell += other.befell
        self.jobs += other.jobs
        self.attempts += other.attempts


@dataclass(frozen=True)
class Weather:
    """What to expect: a search with this seed and so many trials for each engine, and up to so many kills.

    `kinds` are those of `disturbances.TABLE` that may come; none of them leaves the jobs undisturbed.
    """

    seed: int
    trials: int
    kills: int = 0
    kinds: tuple[str, ...] = ()


@dataclass
class Storm:
    """Disturbances of one town."""

    town: Town
    rng: random.Random
    weather: Weather
    say: Say
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        # without patience: while the database is down there is nothing to see
        self._eyes = create_engine(normalise_url(self.town.url), poolclass=NullPool)
        self._witness = Witness(self._eyes)
        self._worker_killed_at = -1

    def rage(self) -> None:
        """Until so many kills have come and the jobs are done, or they are done before."""
        pause = time.monotonic() + 1.0
        calm_since: float | None = None
        while not self._done():
            self.town.tend()
            self._look()
            if self.tally.kills >= self.weather.kills and self.town.calm:
                calm_since = calm_since or time.monotonic()
                assert time.monotonic() - calm_since < PATIENCE, f"not done in time\n{self.town.logs()}"
            elif time.monotonic() >= pause:
                self._befall()
                pause = time.monotonic() + self.rng.uniform(0.1, 1.2)
            time.sleep(0.05)
        self._look()
        if calm_since is not None:
            self.say(f"all done, {time.monotonic() - calm_since:.1f} s after nothing befell them any more")
        while not self.town.calm:
            self.town.tend()
            time.sleep(0.05)

    def _befall(self) -> None:
        kinds = self.weather.kinds
        kind = self.rng.choices(kinds, [TABLE[kind][1] for kind in kinds])[0]
        if kind == "kill worker":
            # three workers lost on one recipe are its failure, so it gets no second
            if self._witness.count == self._worker_killed_at:
                return
            self._worker_killed_at = self._witness.count
        did = TABLE[kind][0](self.town, self.rng)
        if did is not None:
            self.tally.befell[kind] += 1
            self.say(did)

    def _done(self) -> bool:
        try:
            with self._eyes.connect() as connection:
                states = set(connection.scalars(select(jobs.c.state)))
        except DBAPIError:
            return False
        stuck = states - {"queued", "running", "done"}
        assert not stuck, f"a job must go on by itself, but one is {stuck}\n{self.town.logs()}"
        return states == {"done"}

    def _look(self) -> None:
        try:
            self._witness.look()
        except DBAPIError:
            return


def storm(
    place: Path,
    said: Path,
    server: PostgresServer | None,
    weather: Weather,
    say: Say,
    undisturbed: dict[str, Answer] | None,
) -> tuple[Tally, dict[str, Answer]]:
    """One town, one job for each engine, one storm; what befell, and what the jobs came to.

    Raises `AssertionError` where anything is not as promised, and where jobs came to something else than `undisturbed`.
    """
    with town(place, said, server) as here:
        here.submit(list(ENGINES), weather.seed, weather.trials)
        raging = Storm(here, random.Random(f"{weather} {place.name}"), weather, say)
        raging.rage()
        tally = raging.tally
        tally.jobs = len(ENGINES)
        with here.database.connect() as connection:
            tally.attempts = connection.scalar(select(func.sum(jobs.c.attempt))) or 0
        answers = {engine: answer_of(here.database, here.url, engine) for engine in ENGINES}
        for engine in ENGINES:
            check_budget(answers[engine], *budget_of(engine, weather.trials))
            check(here.database, here.url, engine, (undisturbed or answers)[engine])
    return tally, answers
