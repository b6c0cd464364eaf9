"""Optuna's rows of trials: many read at once, each written whole, in the transaction of the caller.

Optuna's own storage writes a trial piece by piece, one transaction for each parameter and attribute. The tables are
those of Optuna 5 (`optuna.storages._rdb.models`); what is written here, Optuna and its dashboard read as their own. Not
read: intermediate values, which a merge does not have.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, Table, and_, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from optimizer.database import insert_once

STUDIES: Table = models.StudyModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMETERS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
USER_ATTRIBUTES: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRIBUTES: Table = models.TrialSystemAttributeModel.__table__


class Shapes:
    """The spaces that trials were drawn from, one object of each, however many trials there are."""

    def __init__(self) -> None:
        self._read: dict[str, BaseDistribution] = {}
        self._written: dict[int, tuple[BaseDistribution, str]] = {}
        self._shapes: dict[tuple[tuple[str, str], ...], dict[str, BaseDistribution]] = {}

    def of(self, texts: Iterable[tuple[str, str]]) -> dict[str, BaseDistribution]:
        """The space of these parameters, each with its distribution as Optuna writes it down."""
        key = tuple(texts)
        if key not in self._shapes:
            self._shapes[key] = {name: self._parsed(text) for name, text in key}
        return self._shapes[key]

    def text(self, distribution: BaseDistribution) -> str:
        """The distribution as Optuna writes it down."""
        known = self._written.get(id(distribution))
        if known is None:  # kept with its text, so that its id belongs to nobody else
            known = self._written[id(distribution)] = (distribution, distribution_to_json(distribution))
        return known[1]

    def _parsed(self, text: str) -> BaseDistribution:
        if text not in self._read:
            self._read[text] = json_to_distribution(text)
        return self._read[text]


def read_trials(
    connection: Connection, study_id: int, shapes: Shapes, after: int = -1, among: Collection[int] = ()
) -> list[FrozenTrial]:
    """The study's trials whose id is larger than `after` or one of `among`, in order of their ids."""
    beyond = TRIALS.c.trial_id > after
    wanted = and_(TRIALS.c.study_id == study_id, or_(beyond, TRIALS.c.trial_id.in_(among)) if among else beyond)
    rows = connection.execute(select(TRIALS).where(wanted).order_by(TRIALS.c.trial_id)).all()
    if not rows:
        return []
    parameters = _by_trial(connection, PARAMETERS, wanted, "param_name", "param_value", "distribution_json")
    values = _by_trial(connection, VALUES, wanted, "objective", "value", "value_type")
    user = _by_trial(connection, USER_ATTRIBUTES, wanted, "key", "value_json")
    system = _by_trial(connection, SYSTEM_ATTRIBUTES, wanted, "key", "value_json")
    found = []
    for row in rows:
        own = parameters.get(row.trial_id, [])
        space = shapes.of((name, text) for name, _, text in own)
        found.append(
            FrozenTrial(
                number=row.number,
                state=row.state,
                value=None,
                values=_values(values.get(row.trial_id, [])),
                datetime_start=local(row.datetime_start),
                datetime_complete=local(row.datetime_complete),
                params={name: space[name].to_external_repr(internal) for name, internal, _ in own},
                distributions=space,
                user_attrs={key: json.loads(text) for key, text in user.get(row.trial_id, [])},
                system_attrs={key: json.loads(text) for key, text in system.get(row.trial_id, [])},
                intermediate_values={},
                trial_id=row.trial_id,
            )
        )
    return found


def read_states(connection: Connection, trial_ids: Collection[int]) -> dict[int, TrialState]:
    """The state of each of these trials."""
    rows = connection.execute(select(TRIALS.c.trial_id, TRIALS.c.state).where(TRIALS.c.trial_id.in_(trial_ids)))
    return {row.trial_id: row.state for row in rows}


def add_trial(
    connection: Connection, study_id: int, shapes: Shapes, trial: FrozenTrial, known: int, after: int
) -> tuple[int, int]:
    """Add a queued or running trial; its id and its number.

    `known` trials of the study have no larger id than `after`. As in Optuna, whoever adds to a study takes turns.
    """
    connection.execute(select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id).with_for_update()).one()
    others = select(func.count()).where(TRIALS.c.study_id == study_id, TRIALS.c.trial_id > after)
    added = insert(TRIALS).values(
        study_id=study_id,
        number=known + others.scalar_subquery(),
        state=trial.state,
        datetime_start=utc(trial.datetime_start),
    )
    row = connection.execute(added.returning(TRIALS.c.trial_id, TRIALS.c.number)).one()
    trial_id, number = int(row.trial_id), int(row.number)
    _add_parameters(connection, trial_id, shapes, trial.params, trial.distributions)
    _write_attributes(connection, USER_ATTRIBUTES, trial_id, trial.user_attrs)
    _write_attributes(connection, SYSTEM_ATTRIBUTES, trial_id, trial.system_attrs)
    return trial_id, number


def start_trial(
    connection: Connection,
    trial_id: int,
    shapes: Shapes,
    parameters: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    now: datetime,
) -> bool:
    """Have a queued trial run with these parameters; False, and nothing is written, where it is not queued."""
    started = update(TRIALS).where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.WAITING)
    if connection.execute(started.values(state=TrialState.RUNNING, datetime_start=utc(now))).rowcount != 1:
        return False
    _add_parameters(connection, trial_id, shapes, parameters, distributions)
    return True


def finish_trial(
    connection: Connection,
    trial_id: int,
    state: TrialState,
    values: Sequence[float] | None,
    user_attributes: Mapping[str, Any],
    system_attributes: Mapping[str, Any],
    now: datetime,
    was: TrialState = TrialState.RUNNING,
) -> bool:
    """End a trial; False, and nothing is written, where its state is not `was`."""
    finished = update(TRIALS).where(TRIALS.c.trial_id == trial_id, TRIALS.c.state == was)
    if connection.execute(finished.values(state=state, datetime_complete=utc(now))).rowcount != 1:
        return False
    finite = models.TrialValueModel.TrialValueType.FINITE
    rows = [
        {"trial_id": trial_id, "objective": place, "value": value, "value_type": finite}
        for place, value in enumerate(values or ())
    ]
    if rows:
        connection.execute(insert(VALUES), rows)
    _write_attributes(connection, USER_ATTRIBUTES, trial_id, user_attributes)
    _write_attributes(connection, SYSTEM_ATTRIBUTES, trial_id, system_attributes)
    return True


def utc(moment: datetime | None) -> datetime | None:
    """A time of ours as Optuna keeps it: UTC, and not saying so."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def local(moment: datetime | None) -> datetime | None:
    """A time in the database as Optuna gives it: that of this machine's zone, and not saying so."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


def _by_trial(
    connection: Connection, table: Table, wanted: ColumnElement[bool], *columns: str
) -> dict[int, list[tuple[Any, ...]]]:
    """The named columns of the rows that belong to trials, in the order they were written."""
    (key,) = table.primary_key
    chosen = select(table.c.trial_id, *(table.c[name] for name in columns))
    rows = connection.execute(chosen.join(TRIALS, TRIALS.c.trial_id == table.c.trial_id).where(wanted).order_by(key))
    found: dict[int, list[tuple[Any, ...]]] = {}
    for trial_id, *rest in rows:
        found.setdefault(trial_id, []).append(tuple(rest))
    return found


def _values(rows: Sequence[tuple[Any, ...]]) -> list[float] | None:
    read = models.TrialValueModel.stored_repr_to_value
    return [read(value, kind) for _, value, kind in sorted(rows, key=lambda row: row[0])] or None


def _add_parameters(
    connection: Connection,
    trial_id: int,
    shapes: Shapes,
    parameters: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> None:
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": shapes.text(distributions[name]),
        }
        for name, value in parameters.items()
    ]
    if rows:  # some may be there, by a version of ours that wrote them one by one and was killed
        connection.execute(insert_once(connection, PARAMETERS), rows)


def _write_attributes(connection: Connection, table: Table, trial_id: int, attributes: Mapping[str, Any]) -> None:
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    if not rows:
        return
    made = postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
    connection.execute(
        made.on_conflict_do_update(
            index_elements=[table.c.trial_id, table.c.key], set_={"value_json": made.excluded.value_json}
        ),
        rows,
    )
