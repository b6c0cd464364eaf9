"""What a job file comes to, once its models and tasks have been looked at: fixed at submit, read by everyone after."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from evaluators.protocol import Task
from merging.frozen import Frozen
from merging.groups import Group
from merging.named import Model
from merging.recipe import Recipe, Source
from optimizer.spec import JobFile
from optimizer.virtual import STATISTICS, Virtual
from search_spaces.bound import BoundSpace

Kind = Literal["base", "parent", "baseline"]
USUAL_SCALES = (0.4, 1.0)
"""What task vectors that are added up are usually multiplied with, and those that are averaged."""


class Baseline(Frozen):
    """A merge everyone would try first. `parameters` is None where it is not a point of the job's search space."""

    label: str
    kind: Kind
    recipe: Recipe
    parameters: dict[str, Any] | None = None


class Needs(Frozen):
    """What the job will take, in bytes: printed before anything starts, compared with what there is.

    `gradient_bytes` is the part of a worker's memory that only gradients take.
    """

    model_bytes: int
    worker_memory_bytes: int
    total_memory_bytes: int
    disk_bytes: int
    gradient_bytes: int = 0


class Plan(Frozen):
    """A job's fixed facts. `template` is the recipe of every trial, still without coefficients.

    `no_gradient` says why the search cannot have the gradient of the coefficients, None where it can. `virtual` names
    the closed-form merges that join the experts during the search, `made` those that have.
    """

    template: Recipe
    groups: tuple[tuple[int | None, str], ...]
    coefficient_names: tuple[str, ...]
    baselines: tuple[Baseline, ...]
    start: dict[str, Any] | None
    tasks: tuple[Task, ...]
    examples: dict[str, int]
    needs: Needs
    no_gradient: str | None = None
    virtual: tuple[Virtual, ...] = ()
    made: dict[str, Source] = Field(default_factory=dict)

    def space(self, job: JobFile) -> BoundSpace:
        """The job's search space over this plan's groups."""
        from search_spaces.spec import bind

        groups = [Group(layer, module) for layer, module in self.groups]
        names = (*self.coefficient_names, *self.virtual)
        virtual: dict[str, Source | None] = {name: self.made.get(name) for name in self.virtual}
        return bind(job.space, self.template, groups, names, virtual, job.searched_methods())

    def screened(self, job: JobFile) -> tuple[Virtual, ...]:
        """The virtual experts that join only where they win against the warm starts.

        They are made of the weights alone, so each is one more warm start; those that a job names join in any case.
        """
        return () if job.search.virtual is not None else tuple(kind for kind in self.virtual if kind not in STATISTICS)


def baselines(
    job: JobFile,
    template: Recipe,
    groups: Sequence[Group],
    space: BoundSpace,
) -> list[Baseline]:
    """Base, parents, the uniform average and task arithmetic at a few scales, each weight setting once.

    A baseline that the search space can express becomes an ordinary point of it, so that the engine learns from it.
    """
    found: dict[tuple[str, tuple[float, ...]], Baseline] = {}
    for label, kind, row in _rows(job, list(template.experts)):
        recipe = _plain_recipe(template, groups, row)
        beside = (0.0,) * (len(space.coefficients) - len(row)) if space.virtual else ()
        fits = len(row) + len(beside) == len(space.coefficients)
        parameters = space.express((*row, *beside), recipe.method) if fits else None
        if parameters is not None:
            recipe = space.recipe(parameters)
        found.setdefault((recipe.method, row), Baseline(label=label, kind=kind, recipe=recipe, parameters=parameters))
    return [*found.values(), *_of_each_method(space, list(found.values()))]


def _of_each_method(space: BoundSpace, known: Sequence[Baseline]) -> list[Baseline]:
    """Every method that is searched at its usual settings and two scales: an engine drops what it saw fail early."""
    found = []
    for scale in USUAL_SCALES:
        for method, parameters in space.usual((scale,) * len(space.coefficients)).items():
            if all(parameters != one.parameters for one in known):
                label, recipe = f"{method} {scale:g}", space.recipe(parameters)
                found.append(Baseline(label=label, kind="baseline", recipe=recipe, parameters=parameters))
    return found


def _rows(job: JobFile, experts: list[str]) -> list[tuple[str, Kind, tuple[float, ...]]]:
    """Label, kind and one coefficient per expert for every baseline."""
    count = len(experts)
    rows: list[tuple[str, Kind, tuple[float, ...]]] = []
    if job.models.base is not None:
        rows.append(("base", "base", (0.0,) * count))
    for position, expert in enumerate(experts):
        one_hot = tuple(1.0 if other == position else 0.0 for other in range(count))
        rows.append((f"parent {expert}", "parent", one_hot))
    rows.append(("uniform average", "baseline", (1 / count,) * count))
    if job.models.base is not None:
        rows.extend((f"task arithmetic {scale:g}", "baseline", (scale,) * count) for scale in job.search.scales)
    return rows


def _plain_recipe(template: Recipe, groups: Sequence[Group], row: tuple[float, ...]) -> Recipe:
    """The row in every group, by task arithmetic where there is a base and by a weighted sum where there is none."""
    method = "task_arithmetic" if template.base is not None else "linear"
    return Recipe(
        method=method,
        base=template.base,
        experts=template.experts,
        coefficients={group.name: row for group in groups},
        structure={},
        seed=template.seed,
        dtype=template.dtype,
        unmerged=template.unmerged,
    )


def sources_of(
    job: JobFile, fingerprints: Mapping[str, str], commits: Mapping[str, str]
) -> tuple[Source | None, dict[str, Source]]:
    """The job's models as a recipe names them; both mappings are keyed by expert name, and by "" for the base.

    A model without a fingerprint is named by its path alone. `commits` are those of models from the Hub: a branch may
    move while a job waits, and every node must load the same.
    """
    base = job.models.base

    def source(name: str, model: Model) -> Source:
        revision = commits.get(name, model.revision)
        return Source(path=model.path, revision=revision, fingerprint=fingerprints.get(name))

    return (
        source("", base) if base else None,
        {name: source(name, model) for name, model in job.models.experts.items()},
    )
