"""Have a resident model collect what closed-form merges need to know about an expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from merging.errors import MergeError
from optimizer.auto.values import task_of
from optimizer.efe import DIFFERENTIATED, SCORED

if TYPE_CHECKING:
    from evaluators.meter import Meter
    from evaluators.protocol import Evaluator
    from merging.live import LiveMerge
    from merging.recipe import Recipe
    from merging.statistics import Kind

EFE = {"gram": SCORED, "fisher": DIFFERENTIATED}
"""What one example costs: a scored one, or one in a gradient batch."""


def collect_statistics(
    kind: Kind,
    expert: str,
    template: Recipe,
    live: LiveMerge,
    evaluator: Evaluator,
    ids: Sequence[str],
    folder: Path,
    meter: Meter | None = None,
) -> Path:
    """The file with one expert's statistics on these examples; collected where it is not there yet.

    `template` names base and experts, with fingerprints. The model is left as the expert, its gradients cleared.
    Examples are run one at a time, so that no padding counts and every Fisher gradient is one example's. For Gram
    matrices an example of each task is scored once more, beforehand.
    Raises `MergeError`, `EvaluatorError` and `ScoringError` as filling, scoring and `backward` do, and `MergeError`
    where the model's layers do not run in torch.
    """
    from merging.statistics import Grams, SquaredGradients, open_statistics, statistics_key, write_statistics

    model = template.experts[expert].fingerprint
    if model is None:
        raise MergeError(f"`{expert}` must have a fingerprint, so that its statistics can be found again.")
    if not ids:
        raise MergeError(f"the statistics of `{expert}` need calibration examples, but there are none.")
    key = statistics_key(kind, model, ids)
    file = folder / f"{kind}-{key}.safetensors"
    if file.is_file():
        open_statistics(file)
        return file
    live.fill(as_expert(template, expert, [group.name for group in live.sources.groups]))
    if kind == "gram":
        # an evaluator's first call tries out how the model can be run, on inputs that are nobody's
        evaluator.score(live.model, list({task_of(name): name for name in ids}.values()), meter)
        with Grams(live.model, live.targets) as grams:
            for name in ids:
                evaluator.score(live.model, [name], meter)
        return write_statistics(file, kind, key, grams.tensors(), grams.inputs_first)
    with SquaredGradients(live.model, live.targets) as squares:
        _differentiate(evaluator, live, ids, squares.take, meter)
        found = squares.tensors()
    return write_statistics(file, kind, key, found)


def teach(
    template: Recipe,
    dtype: str,
    live: LiveMerge,
    evaluator: Evaluator,
    ids: Sequence[str],
    meter: Meter | None = None,
) -> None:
    """Have the evaluator know what the teachers of these examples' tasks say, asked once for all workers of a node.

    The model is left as an expert where one was asked. `dtype` is the one it is run in. Raises as `collect_statistics`.
    """
    from evaluators.twins import Taught

    teachers = {task.name: task.teacher for task in evaluator.tasks() if task.teacher is not None}
    for expert in dict.fromkeys(teachers.values()):
        own = [name for name in ids if teachers.get(task_of(name)) == expert]
        if not own or not isinstance(evaluator, Taught):
            continue
        key = f"{template.experts[expert].fingerprint} {dtype}"
        missing = evaluator.recall(live.model, own, key)
        if missing:
            live.fill(as_expert(template, expert, [group.name for group in live.sources.groups]))
            evaluator.learn(live.model, missing, key, meter)


def as_expert(template: Recipe, expert: str, groups: Sequence[str]) -> Recipe:
    """The recipe whose merge is one of the experts."""
    from merging.recipe import Recipe

    row = tuple(float(name == expert) for name in template.experts)
    return Recipe(
        method="linear" if template.base is None else "task_arithmetic",
        base=template.base,
        experts=template.experts,
        coefficients=dict.fromkeys(groups, row),
        dtype=template.dtype,
        unmerged=template.unmerged,
    )


def own_tasks(means: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[str, ...]]:
    """The tasks whose examples an expert is calibrated on: those that no other expert is better at.

    `means[expert][task]` is the expert's mean on a task, higher is better; every expert has the same tasks. An expert
    that is best at nothing is calibrated on all of them.
    """
    tasks = list(next(iter(means.values())))
    best = {task: max(row[task] for row in means.values()) for task in tasks}
    found = {expert: tuple(task for task in tasks if row[task] == best[task]) for expert, row in means.items()}
    return {expert: own or tuple(tasks) for expert, own in found.items()}


def _differentiate(
    evaluator: Evaluator, live: LiveMerge, ids: Sequence[str], after_each: Callable[[], None], meter: Meter | None
) -> None:
    from evaluators.twins import differentiate

    for name in ids:
        differentiate(evaluator, live.model, [name], {task_of(name): 1.0}, meter)
        after_each()
