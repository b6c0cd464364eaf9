"""What must be true of jobs after whatever befell them, and while it does."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, select, text

from optimizer.audit import deeds
from optimizer.jobs import get_job
from optimizer.outcomes import read_outcomes
from optimizer.spec import JobFile
from optimizer.study import all_trials, open_storage, open_study
from optimizer.tables import audit, jobs, outcomes

_TOLD = text(
    "SELECT s.study_name, t.number, t.state, t.datetime_complete, "
    "(SELECT count(*) FROM trial_values v WHERE v.trial_id = t.trial_id), "
    "(SELECT max(v.value) FROM trial_values v WHERE v.trial_id = t.trial_id) "
    "FROM trials t JOIN studies s ON s.study_id = t.study_id WHERE t.state IN ('COMPLETE', 'FAIL')"
)
# What follows from the job and its seed alone, of a job's results.
_FOLLOWS = ("select", "test", "winner", "optimism", "coefficients", "examples_scored", "efe", "tested", "notes")


@dataclass
class Witness:
    """Looks at what is told while things happen: nothing told may ever be gone, or be told anew."""

    database: Engine
    _told: dict[tuple[str, int], tuple[Any, ...]] = field(default_factory=dict)
    _recorded: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def look(self) -> None:
        """Compare with the last look. Raises `AssertionError`; and `DBAPIError` where the database is down."""
        with self.database.connect() as connection:
            told = {(row[0], row[1]): tuple(row[2:]) for row in connection.execute(_TOLD)}
            columns = (outcomes.c.id, outcomes.c.job_id, outcomes.c.trial, outcomes.c.attempt, outcomes.c.write_id)
            recorded = {row[0]: tuple(row[1:]) for row in connection.execute(select(*columns))}
        for what, before, now in (("told", self._told, told), ("recorded", self._recorded, recorded)):
            changed = {key: (value, now.get(key)) for key, value in before.items() if now.get(key) != value}
            assert not changed, f"what was {what} is gone, or another: {changed}"
        self._told, self._recorded = told, recorded

    @property
    def count(self) -> int:
        """How many rounds are recorded."""
        return len(self._recorded)


@dataclass(frozen=True)
class Answer:
    """What a job came to, without what may differ from run to run: times, attempts, workers."""

    trials: list[tuple[int, str, dict[str, Any], list[float] | None]]
    result: dict[str, Any]


def answer_of(database: Engine, url: str, name: str) -> Answer:
    """What the job came to. Raises `AssertionError` where it is not done."""
    job = get_job(database, name)
    assert job.state == "done", f"job `{name}` must be done, but is {job.state}: {job.error}"
    storage = open_storage(url)
    try:
        study = open_study(storage, name, JobFile.model_validate(job.spec).objectives())
        trials = [(one.number, one.state.name, one.params, one.values) for one in all_trials(study)]
    finally:
        storage.engine.dispose()
    return Answer(trials, {key: job.result[key] for key in _FOLLOWS})


def check(database: Engine, url: str, name: str, undisturbed: Answer) -> None:
    """Everything that is promised of a job that is done. Raises `AssertionError`.

    That the budget is exact follows where it was so undisturbed: trials and examples are part of the answer.
    """
    _check_outcomes(database, name)
    _check_attempts(database, name)
    answer = answer_of(database, url, name)
    assert answer == undisturbed, f"job `{name}`: {_difference(answer, undisturbed)}"


def check_budget(answer: Answer, trials: int | None, examples: int) -> None:
    """All trials told, as many as were asked for where that is said; and no more examples than may be scored."""
    assert [number for number, *_ in answer.trials] == list(range(len(answer.trials)))
    assert {state for _, state, *_ in answer.trials} == {"COMPLETE"}, answer.trials
    scored = answer.result["efe"]["search"]
    if trials is None:
        assert sum(answer.result["efe"].values()) <= examples
    else:
        assert (len(answer.trials), scored) == (trials, examples)


def _difference(answer: Answer, undisturbed: Answer) -> str:
    for ours, theirs in zip(answer.trials, undisturbed.trials, strict=False):
        if ours != theirs:
            return f"the first trial that differs is {ours}, undisturbed it is {theirs}"
    if len(answer.trials) != len(undisturbed.trials):
        return f"{len(answer.trials)} trials, undisturbed {len(undisturbed.trials)}"
    keys = [key for key in _FOLLOWS if answer.result[key] != undisturbed.result[key]]
    return str({key: (answer.result[key], undisturbed.result[key]) for key in keys})


def _check_outcomes(database: Engine, name: str) -> None:
    """No example may count twice for a trial and a split."""
    seen: Counter[tuple[int, str, int]] = Counter()
    for row in read_outcomes(database, get_job(database, name).id):
        seen.update((row.trial, row.split, int(position)) for position in row.columns.positions)
    twice = [key for key, times in seen.items() if times > 1]
    assert not twice, f"counted twice: trial, split and example {twice[:5]}"


def _check_attempts(database: Engine, name: str) -> None:
    """Each attempt was taken once, by one controller; none has recorded anything once the next was taken."""
    job = get_job(database, name)
    done = deeds(database, job.id)
    taken = [deed.data["attempt"] for deed in done if deed.action == "taken"]
    assert taken == list(range(1, job.attempt + 1)), f"attempts must be taken in turn, but were {taken}"
    assert [deed.action for deed in done].count("done") == 1
    assert (done[0].action, done[-1].action) == ("submitted", "done")
    for place, deed in enumerate(done):
        if deed.action in ("died", "given back", "done"):
            last = max(one.data["attempt"] for one in done[:place] if one.action == "taken")
            assert deed.data["attempt"] == last, f"{deed} is not of the last attempt, {last}"
    with database.connect() as connection:
        moments = select(audit.c.data, audit.c.at).where(audit.c.job_id == job.id, audit.c.action == "taken")
        began = {data["attempt"]: at for data, at in connection.execute(moments)}
        rows = connection.execute(select(outcomes.c.attempt, outcomes.c.created_at).where(outcomes.c.job_id == job.id))
        for attempt, at in rows:
            after = began.get(attempt + 1)
            assert began[attempt] <= at, f"attempt {attempt} recorded something before it was taken"
            assert after is None or at <= after, f"attempt {attempt} recorded something after the next was taken"
        left = connection.execute(select(jobs.c.owner, jobs.c.lease_until).where(jobs.c.id == job.id)).one()
        assert tuple(left) == (None, None)
