"""Score one model on a job's examples, the way its trials are scored."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

from evaluators.protocol import SPLITS, Evaluator, EvaluatorError, Outcome, ScoringError, Split, Task
from optimizer.errors import InputError, JobFailed
from optimizer.preflight import check_architecture, check_evaluator, check_kind, open_evaluator
from optimizer.resident import check_vllm
from optimizer.spec import JobFile, read_job_file
from optimizer.statistics import Estimate, interval

if TYPE_CHECKING:
    from merging.recipe import Source


@dataclass(frozen=True)
class ModelScores:
    """A model's scores on one split: an estimate per objective and per task, and every example's outcome."""

    model: str
    split: Split
    objectives: dict[str, Estimate]
    tasks: dict[str, Estimate]
    outcomes: list[Outcome]


def evaluate_model(model: str, job_file: Path, split: str) -> ModelScores:
    """Load the model in this process and score it on the split's examples.

    Raises `InputError` where the model, the job file or the split is wrong, `JobFailed` where it cannot be scored.
    """
    if split not in SPLITS:
        raise InputError(f"--split must be one of {', '.join(SPLITS)}, but is {split!r}.")
    spec = read_job_file(job_file)
    check_kind(spec)
    check_vllm(spec)
    evaluator = open_evaluator(spec)
    live = _load(spec, model, evaluator)
    ids = [example.id for example in evaluator.examples() if example.split == split]
    try:
        outcomes = evaluator.score(live, ids)
    except EvaluatorError as error:
        raise InputError(str(error)) from error
    except ScoringError as error:
        raise JobFailed(f"{model} cannot be scored: {error}") from error
    return _scores(model, split, spec, list(evaluator.tasks()), outcomes)


def _load(spec: JobFile, model: str, evaluator: Evaluator) -> Any:
    """The model, whose folder must have every weight it needs: transformers would draw what is missing at random."""
    from merging.adapters import is_adapter
    from merging.checkpoint import open_folder
    from merging.locate import locate
    from merging.recipe import Source
    from optimizer.resident import open_model

    source = Source(path=model)
    try:
        folder, from_hub = locate(source)
        if is_adapter(folder):
            return _load_over_base(spec, source, evaluator)
        checkpoint = open_folder(source, folder, from_hub)
    except ValueError as error:
        raise InputError(str(error)) from error
    check_evaluator(evaluator, check_architecture(spec, checkpoint))
    return open_model(spec, str(checkpoint.folder))


def _load_over_base(spec: JobFile, adapter: "Source", evaluator: Evaluator) -> Any:
    """An adapter over the job's base, filled in as a worker does it. Raises `ValueError` where it does not fit."""
    from merging.recipe import Recipe
    from merging.sources import Sources
    from optimizer.plan import sources_of
    from optimizer.resident import open_resident

    base, _ = sources_of(spec, {}, {})
    bare = Recipe(method="linear", base=base, experts={"adapter": adapter}, coefficients={}, dtype=spec.dtype)
    sources = Sources(bare)
    recipe = bare.model_copy(update={"coefficients": {group.name: (1.0,) for group in sources.groups}})
    check_evaluator(evaluator, check_architecture(spec, sources.reference))
    resident = open_resident(spec, recipe, sources)
    resident.fill(recipe)
    return resident.model


def _scores(model: str, split: Split, spec: JobFile, tasks: list[Task], outcomes: list[Outcome]) -> ModelScores:
    rng = np.random.default_rng(spec.search.seed)
    metric: dict[str, list[float]] = {task.name: [] for task in tasks}
    for outcome in outcomes:
        metric[outcome.id.rpartition(":")[0]].append(outcome.metric)
    objectives = {}
    for name in spec.objectives():
        members = [task for task in tasks if task.objective == name]
        signed = {
            task.name: [value if task.higher_is_better else -value for value in metric[task.name]] for task in members
        }
        objectives[name] = interval(signed, {task.name: task.weight for task in members}, rng)
    each = {name: interval({name: values}, {name: 1.0}, rng) for name, values in metric.items()}
    return ModelScores(model, split, objectives, each, outcomes)


def scores_json(scored: ModelScores) -> dict[str, Any]:
    """Everything, as plain data."""
    return asdict(scored)


def scores_table(scored: ModelScores) -> Table:
    """The estimates with their 95 % intervals for a terminal."""
    table = Table("", "score", "95 % interval", "examples", box=None, pad_edge=False)
    table.title = f"{scored.model} on {scored.split}"
    for name, estimate in {**scored.objectives, **scored.tasks}.items():
        table.add_row(Text(name), f"{estimate.mean:.4f}", f"{estimate.low:.4f} to {estimate.high:.4f}", str(estimate.n))
    return table
