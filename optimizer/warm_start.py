"""Begin a search where an earlier one ended: its winner becomes a baseline, and the point to start from."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine

from evaluators.protocol import Example
from merging.recipe import Recipe
from optimizer.errors import InputError
from optimizer.examples import read_ledger
from optimizer.jobs import Job, get_job
from optimizer.plan import Baseline, Plan
from optimizer.results import from_json
from optimizer.spec import JobFile
from optimizer.starts import expressed


def earlier_job(database: Engine, spec: JobFile) -> Job | None:
    """The job that `search.warm_start` names, None where it names none. Raises `InputError` where it is not done."""
    name = spec.search.warm_start
    if name is None:
        return None
    job = get_job(database, name)
    if job.state != "done" or job.result is None:
        raise InputError(
            f"`search.warm_start` must name a job that is done, but `{name}` is {job.state}; finish it by "
            f"`mergeopt resume {name}`, or leave `warm_start` out."
        )
    return job


def warm_started(plan: Plan, spec: JobFile, earlier: Job) -> Plan:
    """The plan with the earlier winner as one more baseline, and virtual experts that both jobs share as made.

    Raises `InputError` where the winner is no point of this job's space.
    """
    before = Plan.model_validate(earlier.plan)
    if _models(plan.template) != _models(before.template):
        raise InputError(_unfit(earlier.name, "it is of other models, or of the same in another order"))
    made = {name: source for name, source in before.made.items() if name in plan.virtual and Path(source.path).is_dir()}
    plan = plan.model_copy(update={"made": made})
    space = plan.space(spec)
    rows = from_json(earlier.result or {}).coefficients
    known = space.coefficients
    strangers = {name for row in rows.values() for name, value in row.items() if value and name not in known}
    if strangers or set(rows) != {group for group, _ in space.rows}:
        reason = f"it mixes {', '.join(sorted(strangers))}" if strangers else "its model has other groups"
        raise InputError(_unfit(earlier.name, reason))
    parameters = None
    if not any(row.get(name) for row in rows.values() for name in plan.virtual if name not in plan.made):
        here = {group: tuple(row.get(name, 0.0) for name in known) for group, row in rows.items()}
        parameters = expressed(space, here)
    if parameters is None:
        raise InputError(_unfit(earlier.name, "its coefficients are no point of this job's `space`"))
    start = Baseline(
        label=f"winner of {earlier.name}", kind="baseline", recipe=space.recipe(parameters), parameters=parameters
    )
    return plan.model_copy(update={"baselines": (*plan.baselines, start), "start": parameters})


def check_examples(database: Engine, earlier: Job, examples: Sequence[Example]) -> None:
    """Raise `InputError` where the new job would test on what the earlier one searched on."""
    looked_at = {_content(one.id) for one in read_ledger(database, earlier.id) if one.split != "test"}
    seen = [one for one in examples if one.split == "test" and _content(one.id) in looked_at]
    if seen:
        raise InputError(
            f"`search.warm_start`: a test example must not have been searched on, but {len(seen)} test examples of "
            f"this job were in another split of `{earlier.name}`; use the same `splits` and `limit`, or leave "
            "`warm_start` out."
        )


def _content(example: str) -> str:
    return example.rpartition(":")[2]


def _models(recipe: Recipe) -> tuple[object, ...]:
    base = recipe.base.fingerprint if recipe.base is not None else None
    return base, tuple((name, source.fingerprint) for name, source in recipe.experts.items()), recipe.unmerged


def _unfit(name: str, reason: str) -> str:
    return (
        f"`search.warm_start`: the winner of `{name}` must be a merge of this job's space, but {reason}; use the same "
        "models and the same `space`, or leave `warm_start` out."
    )
