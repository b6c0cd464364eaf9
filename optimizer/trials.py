"""A study's trials as one process knows them: read once, then kept up with what it writes and with what others add.

One process asks and tells, so what it wrote itself need not be read again; ten thousand told trials then cost the next
one nothing. Whatever is known here stands in the database: it is entered after the transaction that wrote it.
"""

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine

from optimizer.trial_rows import Shapes, add_trial, finish_trial, read_states, read_trials, start_trial
from search_spaces.domain import Domain, whole_of

Fits = Callable[[FrozenTrial], bool]


class Trials:
    """The trials of one study, in order of number; `len` counts them, an index is a number. Only read them."""

    def __init__(self, engine: Engine, study_id: int) -> None:
        self._engine = engine
        self._study_id = study_id
        self._shapes = Shapes()
        self._all: list[FrozenTrial] = []
        self._last = -1  # no trial with a larger id is known
        self._open: dict[TrialState, dict[int, FrozenTrial]] = {TrialState.WAITING: {}, TrialState.RUNNING: {}}
        self._labels: dict[str, int] = {}
        self._kinds: dict[str, BaseDistribution] = {}
        self._log: list[int] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, number: int) -> FrozenTrial:
        return self._all[number]

    def __iter__(self) -> Iterator[FrozenTrial]:
        return iter(self._all)

    def waiting(self) -> list[FrozenTrial]:
        """The queued trials, in order of number."""
        return _in_order(self._open[TrialState.WAITING])

    def running(self) -> list[FrozenTrial]:
        """The trials that were opened and not told, in order of number."""
        return _in_order(self._open[TrialState.RUNNING])

    def of(self, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """All trials, or those in these states, in order of number."""
        return list(self._all) if states is None else [trial for trial in self._all if trial.state in states]

    def labelled(self, label: str) -> FrozenTrial | None:
        """The first trial with this label, None where there is none."""
        number = self._labels.get(label)
        return None if number is None else self._all[number]

    def news(self, place: int) -> tuple[list[FrozenTrial], int]:
        """The trials that are new or have changed since `place`, as they are now; and the place of the next news.

        0 is the place before all news.
        """
        return [self._all[number] for number in dict.fromkeys(self._log[place:])], len(self._log)

    def refresh(self) -> list[FrozenTrial]:
        """Read the trials that somebody else has added; there are none, as a rule."""
        with self._reading() as connection:
            found = read_trials(connection, self._study_id, self._shapes, self._last)
        for trial in found:
            self._enter(trial)
        return found

    def refresh_all(self) -> None:
        """Read also what somebody else has done to trials that are not told."""
        self.refresh()
        ours = {trial._trial_id: trial for trials in self._open.values() for trial in trials.values()}
        if not ours:
            return
        with self._reading() as connection:
            states = read_states(connection, list(ours))
            changed = [one for one, state in states.items() if ours[one].state != state]
        if changed:
            self._read_again(changed)

    def add(self, trial: FrozenTrial) -> FrozenTrial:
        """Add a queued or running trial, whole or not at all; as it then stands."""
        for name, one in trial.distributions.items():
            if name in self._kinds and self._kinds[name] is not one:
                check_distribution_compatibility(self._kinds[name], one)
        with self._engine.begin() as connection:
            trial_id, number = add_trial(
                connection, self._study_id, self._shapes, trial, known=len(self._all), after=self._last
            )
        if number != len(self._all):  # somebody else has added one meanwhile
            self.refresh()
        else:
            self._enter(_changed(trial, _number=number, _trial_id=trial_id, _params=_as_read(trial)))
        return self._all[number]

    def start(
        self,
        trial: FrozenTrial,
        parameters: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> bool:
        """Have a queued trial run with these parameters; False where it is not queued any more."""
        now = datetime.now()
        with self._engine.begin() as connection:
            done = start_trial(connection, trial._trial_id, self._shapes, parameters, distributions, now)
        if done:
            space = {name: distributions[name] for name in parameters}
            begun = {"state": TrialState.RUNNING, "_datetime_start": now}
            running = _changed(trial, _params=dict(parameters), _distributions=space, **begun)
            self._enter(_changed(running, _params=_as_read(running)))
        else:
            self._read_again([trial._trial_id])
        return done

    def finish(
        self,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
        user_attributes: Mapping[str, Any],
        system_attributes: Mapping[str, Any],
    ) -> bool:
        """End a trial; False where its state is not what is known of it any more."""
        now = datetime.now()
        with self._engine.begin() as connection:
            done = finish_trial(
                connection, trial._trial_id, state, values, user_attributes, system_attributes, now, was=trial.state
            )
        if done:
            attributes = {
                "_user_attrs": {**trial.user_attrs, **user_attributes},
                "_system_attrs": {**trial.system_attrs, **system_attributes},
            }
            ended = {"state": state, "_values": None if values is None else list(values), "datetime_complete": now}
            self._enter(_changed(trial, **attributes, **ended))
        else:
            self._read_again([trial._trial_id])
        return done

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """A connection without a transaction: two round trips less, where one statement is the rule."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection

    def _read_again(self, trial_ids: Sequence[int]) -> None:
        with self._reading() as connection:
            for trial in read_trials(connection, self._study_id, self._shapes, self._last, trial_ids):
                self._enter(trial)

    def _enter(self, trial: FrozenTrial) -> None:
        """Take a trial as it stands in the database."""
        space = self._shapes.of((name, self._shapes.text(one)) for name, one in trial.distributions.items())
        if trial.distributions is not space:
            trial = _changed(trial, _distributions=space)
        number = trial.number
        if number == len(self._all):
            self._all.append(trial)
        else:
            self._all[number] = trial
        for state, trials in self._open.items():
            if state == trial.state:
                trials[number] = trial
            else:
                trials.pop(number, None)
        if "label" in trial.user_attrs:
            self._labels.setdefault(trial.user_attrs["label"], number)
        for name, one in space.items():
            self._kinds.setdefault(name, one)
        self._last = max(self._last, trial._trial_id)
        self._log.append(number)


def fits_in(distributions: Mapping[str, BaseDistribution]) -> Fits:
    """Whether a trial is a point of this space; quick for the second of many trials that share one."""
    branching = list(distributions.branches) if isinstance(distributions, Domain) else []
    known: dict[tuple[Any, ...], tuple[bool, dict[str, BaseDistribution]]] = {}

    def fits(trial: FrozenTrial) -> bool:
        space = trial.distributions
        key = (id(space), *(trial.params.get(name) for name in branching))
        if key not in known:  # kept with its space, so that its id belongs to nobody else
            known[key] = (space == whole_of(distributions, trial.params), space)
        return known[key][0]

    return fits


def _as_read(trial: FrozenTrial) -> dict[str, Any]:
    """The trial's parameters as they are when they are read back."""
    return {
        name: trial.distributions[name].to_external_repr(trial.distributions[name].to_internal_repr(value))
        for name, value in trial.params.items()
    }


def _in_order(trials: Mapping[int, FrozenTrial]) -> list[FrozenTrial]:
    return [trials[number] for number in sorted(trials)]


def _changed(trial: FrozenTrial, **changes: Any) -> FrozenTrial:
    """A copy that shares what is not changed; attributes are what they will be when they are read from JSON."""
    made = copy(trial)
    for name, value in changes.items():
        setattr(made, name, value)
    made._user_attrs = json.loads(json.dumps(made._user_attrs))
    made._system_attrs = json.loads(json.dumps(made._system_attrs))
    return made
