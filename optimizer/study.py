"""A job's trials in Optuna's tables: opened and told by one coordinator, readable by the dashboard."""

import json
import math
import random
import time
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from optimizer.database import engine_arguments, masked, normalise_url, retrying
from optimizer.errors import InputError
from optimizer.trials import Trials, fits_in
from search_spaces.domain import contains, whole_of

LONGEST_NAME = 512  # Optuna's columns; PostgreSQL refuses more with a misleading message
_CREATION_ATTEMPTS = 8
_KNOWN: WeakKeyDictionary[optuna.Study, Trials] = WeakKeyDictionary()
_Answer = TypeVar("_Answer")


def open_storage(url: str) -> RDBStorage:
    """Optuna's tables in the database at `url`, made on first use; safe to call in several processes at once.

    SQLite is put in WAL mode with `synchronous=NORMAL`; PostgreSQL goes through psycopg and tests a pooled
    connection before it is used. Raises `InputError`, without the password, for a URL that cannot be read or a
    database that cannot be opened.
    """
    address = normalise_url(url)
    try:
        return _open_storage(address)
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise InputError(_cannot_open(address, error)) from None


def reach_storage(database: Engine, url: str) -> RDBStorage:
    """As `open_storage`, for whoever has reached the database before: where it is away now, it is waited for.

    Raises `DatabaseAway` where it stays away.
    """
    address = normalise_url(url)
    try:
        return _patiently(database, lambda: _open_storage(address))
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        raise InputError(_cannot_open(address, error)) from None


def _open_storage(address: URL) -> RDBStorage:
    options = engine_arguments(address)
    if address.drivername == "sqlite":
        options["pool_events"] = [(_set_pragmas, "connect")]
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its line per study and trial says nothing new
    attempt = 0
    while True:
        attempt += 1
        try:
            return RDBStorage(address.render_as_string(hide_password=False), engine_kwargs=dict(options))
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            if attempt == _CREATION_ATTEMPTS or not _made_by_another(error):
                raise
            time.sleep(0.05 * 2**attempt * random.random())


def open_study(storage: RDBStorage, name: str, objectives: Sequence[str]) -> optuna.Study:
    """The study of that name, made on first use; every objective is maximised.

    Raises `InputError` where a study of that name has other objectives, or the name is too long.
    """
    if not 0 < len(name) <= LONGEST_NAME:
        raise InputError(f"A study's name must have 1 to {LONGEST_NAME} characters, but has {len(name)}.")
    if not objectives or len(dict.fromkeys(objectives)) != len(objectives):
        raise InputError(f"A study needs objectives with names of their own, but got {list(objectives)}.")
    return _patiently(storage.engine, lambda: _open_study(storage, name, list(objectives)))


def _open_study(storage: RDBStorage, name: str, objectives: list[str]) -> optuna.Study:
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=["maximize"] * len(objectives),
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(),  # never asked: engines propose, this study only records
    )
    if study.metric_names is None and len(study.directions) == len(objectives):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(objectives)
    if study.metric_names != objectives:
        raise InputError(
            f"The study {name!r} has the objectives {study.metric_names}, not {objectives}; use another job name."
        )
    return study


def known(study: optuna.Study) -> Trials:
    """The study's trials without another look at the database: what this process wrote, and what it read last."""
    if study not in _KNOWN:
        engine = _engine(study)
        _KNOWN[study] = _patiently(engine, lambda: Trials(engine, study._study_id))
    return _KNOWN[study]


def all_trials(study: optuna.Study, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
    """Every trial in order of number, also those without parameters. They are not copies: only read them."""
    trials = known(study)
    _patiently(_engine(study), trials.refresh_all)
    return trials.of(states)


def points(
    study: optuna.Study, distributions: Mapping[str, BaseDistribution], states: Container[TrialState]
) -> list[FrozenTrial]:
    """The trials that are points of this space, in order of number: what an engine learns from.

    A baseline that the space cannot express has no parameters, so it is not among them.
    """
    fits = fits_in(distributions)
    return [trial for trial in all_trials(study, states) if fits(trial)]


def running(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were opened and not told: after a crash, the ones to run again."""
    return all_trials(study, states=(TrialState.RUNNING,))


def enqueue_baseline(study: optuna.Study, parameters: Mapping[str, Any] | None, user_attrs: Mapping[str, Any]) -> None:
    """Queue a trial. Without parameters it must carry its `recipe` in `user_attrs`."""
    if parameters is None and "recipe" not in user_attrs:
        raise ValueError(
            f"a trial without parameters must carry its `recipe`, but has only {list(user_attrs)}; "
            "add the recipe as JSON."
        )
    trial = create_trial(
        state=TrialState.WAITING,
        user_attrs=dict(user_attrs),
        system_attrs={} if parameters is None else {"fixed_params": dict(parameters)},
    )
    _add(study, trial)


def open_waiting(study: optuna.Study, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial | None:
    """Open the first queued trial, None where none waits.

    A trial that carries a `recipe` is opened without parameters. A trial that is neither that nor a point of
    the space (queued by hand, say) FAILs with its reason, and the next one is looked at.
    """
    trials = known(study)
    _patiently(_engine(study), trials.refresh)
    for waiting in trials.waiting():
        parameters = {}
        if "recipe" not in waiting.user_attrs:
            parameters = waiting.system_attrs.get("fixed_params", {})
            complaint = _misfit(parameters, whole_of(distributions, parameters))
            if complaint is not None:
                _finish(study, waiting, TrialState.FAIL, None, {"error": complaint}, {})
                continue
        return _start(study, waiting, parameters, whole_of(distributions, parameters))
    return None


def open_point(
    study: optuna.Study,
    parameters: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    user_attrs: Mapping[str, Any],
    system_attrs: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A new running trial with these parameters, in one transaction: it is there whole, or not at all."""
    whole = whole_of(distributions, parameters)
    template = create_trial(
        state=TrialState.RUNNING,
        params={name: parameters[name] for name in whole},
        distributions=whole,
        user_attrs=dict(user_attrs),
        system_attrs=dict(system_attrs or {}),
    )
    return _add(study, template)


def tell(
    study: optuna.Study,
    number: int,
    values: Sequence[float] | None,
    error: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    constraints: Mapping[str, float] | None = None,
) -> None:
    """Record a trial's result once: its values, or FAIL with the reason in the user attribute `error`.

    `attributes` become user attributes, `constraints` Optuna's (zero or less is feasible). Raises ValueError where the
    trial is not running, and where a value is not finite (Optuna itself accepts infinity) or there are more or fewer
    of them than objectives.
    """
    if (values is None) == (error is None):
        raise ValueError(f"trial {number} needs values or an error, one of them, but got {values} and {error!r}.")
    trial = known(study)[number]
    if trial.state != TrialState.RUNNING:
        raise _not_running(trial)
    if values is None:
        _finish(study, trial, TrialState.FAIL, None, {**(attributes or {}), "error": error}, {})
        return
    if len(values) != len(study.directions) or not all(math.isfinite(value) for value in values):
        raise ValueError(
            f"trial {number} needs {len(study.directions)} finite values, but was told {list(values)}; tell it failed."
        )
    limits = create_trial(state=TrialState.RUNNING, constraints=dict(constraints or {})).system_attrs
    _finish(study, trial, TrialState.COMPLETE, [float(value) for value in values], attributes or {}, limits)


def _add(study: optuna.Study, template: FrozenTrial) -> FrozenTrial:
    """Add a trial once: one whose transaction succeeded while its answer was lost is found by what it says."""
    trials = known(study)
    tried: list[bool] = []

    def add() -> FrozenTrial:
        for other in trials.refresh() if tried else ():
            if _says(other) == _says(template):
                return other
        tried.append(True)
        return trials.add(template)

    return _patiently(_engine(study), add)


def _says(trial: FrozenTrial) -> tuple[Any, ...]:
    written = json.dumps([trial.user_attrs, trial.system_attrs.get("fixed_params")], sort_keys=True)
    return trial.state, trial.params, written


def _finish(
    study: optuna.Study,
    trial: FrozenTrial,
    state: TrialState,
    values: list[float] | None,
    user_attributes: Mapping[str, Any],
    system_attributes: Mapping[str, Any],
) -> None:
    """End a trial, in one transaction. Raises `ValueError` where somebody else has ended it."""
    trials = known(study)
    tried: list[bool] = []

    def finish() -> None:
        again = bool(tried)
        tried.append(True)
        if not trials.finish(trial, state, values, user_attributes, system_attributes):
            now = trials[trial.number]
            if not again or (now.state, now.values) != (state, values):
                raise _not_running(now)

    _patiently(_engine(study), finish)


def _not_running(trial: FrozenTrial) -> ValueError:
    return ValueError(f"only a running trial can be told, but trial {trial.number} is {trial.state.name}.")


def _start(
    study: optuna.Study,
    waiting: FrozenTrial,
    parameters: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> FrozenTrial:
    """Parameters and state, in one transaction: whoever is killed leaves a queued trial, not half a running one."""
    trials = known(study)

    def start() -> FrozenTrial:
        # where it was started by a try whose answer was lost, it is running as it should
        if not trials.start(waiting, parameters, distributions) and trials[waiting.number].state != TrialState.RUNNING:
            raise _not_running(trials[waiting.number])
        return trials[waiting.number]

    return _patiently(_engine(study), start)


def _misfit(parameters: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> str | None:
    """Why these parameters are no point of the space, None where they are."""
    for name in parameters:
        if name not in distributions:
            return f"the space has no parameter {name!r}; it has {', '.join(distributions)}."
    for name, distribution in distributions.items():
        if name not in parameters:
            return f"every parameter needs a value, but {name!r} has none."
        value = parameters[name]
        if not contains(distribution, value):
            return f"`{name}` must be in {distribution}, but is {value!r}."
    return None


def _engine(study: optuna.Study) -> Engine:
    """The SQLAlchemy engine below the cache that Optuna puts around every database."""
    backend: RDBStorage = study._storage._backend  # type: ignore[attr-defined]
    return backend.engine


@retrying
def _patiently(_engine: Engine, call: Callable[[], _Answer]) -> _Answer:
    """Call again while the database is away; raises `DatabaseAway` in the end. `call` must bear repeating."""
    try:
        return call()
    except StorageInternalError as error:
        # Optuna hides what happened behind a text about invalid data; the cause says whether waiting helps.
        if isinstance(error.__cause__, DBAPIError):
            raise error.__cause__ from None
        raise


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    if cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _made_by_another(error: Exception) -> bool:
    """Whether another process made the tables between our look and our try, so that trying again helps."""
    text = f"{error} {error.__cause__}".lower()
    racing = ("already exists", "duplicate key", "unique constraint", "database is locked")
    return any(phrase in text for phrase in racing)


def _cannot_open(address: URL, error: Exception) -> str:
    """The database and the reason, never the password."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    reason = " ".join(str(getattr(cause, "orig", None) or cause).split())
    if address.password:
        reason = reason.replace(str(address.password), "***")
    advice = (
        "check that its folder exists and can be written to"
        if address.drivername == "sqlite"
        else "check that the server runs and that the user may create tables in it"
    )
    return f"The database {masked(address)} cannot be opened ({reason}); {advice}."
