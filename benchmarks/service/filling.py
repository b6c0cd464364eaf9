"""Fill a study with told trials, as many thousands as wanted, in seconds: what a long search would have left behind."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import optuna
from cmaes import CMA
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, Table, func, insert, select

from optimizer.engines.cma_es import SIGMA, population
from optimizer.engines.protocol import Distributions
from optimizer.engines.seeds import seed_for
from optimizer.outcomes import Columns, pack
from optimizer.tables import DatabaseClock, outcomes

AT_ONCE = 20_000  # rows of one INSERT's batch


@dataclass(frozen=True)
class Told:
    """One trial of a search that was: its point, its value, and what its engine noted of it."""

    parameters: Mapping[str, float]
    value: float
    attributes: Mapping[str, Any]


def told_by(
    engine: str, distributions: Distributions, start: Mapping[str, float], seed: int, count: int
) -> Iterator[Told]:
    """The first `count` trials of a search for a bowl's bottom by the engine `random`, or by `cma-es` with one worker.

    They are the very trials that engine would have told, so that it goes on from there as from its own.
    """
    names = list(distributions)
    low = np.array([one.low for one in distributions.values()])
    width = np.array([one.high - one.low for one in distributions.values()])
    if engine == "cma-es":
        drawn = _cma_es((np.array([start[name] for name in names]) - low) / width, seed, count)
    elif engine == "random":
        rng = np.random.default_rng(seed)
        drawn = ((rng.random(len(names)), {}) for _ in range(count))
    else:
        raise ValueError(f"a study is filled for cma-es or random, but the engine is {engine!r}.")
    for unit, attributes in drawn:
        values = np.minimum(np.maximum(low + unit * width, low), low + width)
        parameters = dict(zip(names, map(float, values), strict=True))
        yield Told(parameters, bowl(unit), {"origin": "search", **attributes})


def bowl(unit: np.ndarray[Any, Any]) -> float:
    """Larger is better; 0 in the middle of the cube, and shallow."""
    return -float(np.mean((unit - 0.5) ** 2))


def _cma_es(
    start: np.ndarray[Any, Any], seed: int, count: int
) -> Iterator[tuple[np.ndarray[Any, Any], dict[str, Any]]]:
    size = population(len(start))
    bounds = np.tile([0.0, 1.0], (len(start), 1))
    cma = CMA(mean=start, sigma=SIGMA, bounds=bounds, population_size=size, seed=0)
    for generation in range(math.ceil(count / size)):
        members = []
        for member in range(size):
            cma.reseed_rng(seed_for(seed, "cma-es", generation, member))
            members.append(cma.ask())
        for member, unit in enumerate(members[: count - generation * size]):
            yield unit, {"generation": generation, "member": member}
        cma.tell([(unit, -bowl(unit)) for unit in members])


def fill(
    storage: RDBStorage, study: optuna.Study, distributions: Distributions, trials: Sequence[Told], attributes: bool
) -> None:
    """Add told trials to a study, in one transaction. Without `attributes` they are as `study.tell` leaves them."""
    texts = {name: distribution_to_json(one) for name, one in distributions.items()}
    now = datetime.now(UTC).replace(tzinfo=None)
    finite = models.TrialValueModel.TrialValueType.FINITE
    with storage.engine.begin() as connection:
        table = models.TrialModel.__table__
        first = connection.execute(select(func.coalesce(func.max(table.c.trial_id), 0))).scalar_one() + 1
        before = connection.execute(select(func.count()).where(table.c.study_id == study._study_id)).scalar_one()
        ids = range(first, first + len(trials))
        common = {"study_id": study._study_id, "state": TrialState.COMPLETE, "datetime_start": now}
        _add(
            connection,
            table,
            [
                {**common, "trial_id": trial_id, "number": before + place, "datetime_complete": now}
                for place, trial_id in enumerate(ids)
            ],
        )
        _add(
            connection,
            models.TrialParamModel.__table__,
            [
                {"trial_id": trial_id, "param_name": name, "param_value": value, "distribution_json": texts[name]}
                for trial_id, trial in zip(ids, trials, strict=True)
                for name, value in trial.parameters.items()
            ],
        )
        _add(
            connection,
            models.TrialValueModel.__table__,
            [
                {"trial_id": trial_id, "objective": 0, "value": trial.value, "value_type": finite}
                for trial_id, trial in zip(ids, trials, strict=True)
            ],
        )
        if attributes:
            _add(
                connection,
                models.TrialUserAttributeModel.__table__,
                [
                    {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
                    for trial_id, trial in zip(ids, trials, strict=True)
                    for key, value in {**trial.attributes, "examples": 200, "digest": "0" * 16}.items()
                ],
            )
        _count_on(connection, table, ids.stop)


def fill_outcomes(engine: Engine, job_id: int, numbers: range, examples: int) -> None:
    """Record a round of the search split for each of these trials."""
    columns = Columns(np.arange(examples, dtype=np.int32), np.zeros(examples))
    row = {
        "job_id": job_id,
        "split": "search",
        "round": 0,
        "attempt": 0,
        "digest": "0" * 16,
        "n": examples,
        "seconds": 30.0,
        "worker": "nobody",
        "write_id": "0" * 32,
        "blob": pack(columns),
    }
    with engine.begin() as connection:
        at = connection.execute(select(DatabaseClock())).scalar_one()
        connection.execute(
            insert(outcomes),
            [{**row, "trial": number, "created_at": datetime.fromtimestamp(at, UTC)} for number in numbers],
        )


def _add(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """By COPY where the database has it: a hundred times as many rows a second."""
    if connection.dialect.name != "postgresql":
        for place in range(0, len(rows), AT_ONCE):
            connection.execute(insert(table), rows[place : place + AT_ONCE])
        return
    names = list(rows[0]) if rows else []
    driver = connection.connection.driver_connection
    assert driver is not None
    with driver.cursor().copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([getattr(value, "name", value) for value in row.values()])


def _count_on(connection: Connection, table: Table, following: int) -> None:
    """PostgreSQL counts ids by itself and has not seen those that were given."""
    if connection.dialect.name == "postgresql":
        sequence = func.pg_get_serial_sequence(table.name, "trial_id")
        connection.execute(select(func.setval(sequence, following, False)))
