"""Look at everything a job needs before its first trial, and refuse what would fail later."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from merging.yaml_file import suggest
from optimizer.auto.rule import AUTO
from optimizer.auto.screen import least_examples
from optimizer.batches import batches_of
from optimizer.engines import ENGINES
from optimizer.errors import InputError, first_line
from optimizer.loading import is_function
from optimizer.plan import Baseline, Needs, Plan, baselines, sources_of
from optimizer.resident import check_vllm
from optimizer.spec import JobFile, Workers
from optimizer.starts import further_baselines
from optimizer.trackers import check_trackers
from search_spaces.path import longest

if TYPE_CHECKING:
    from torch import nn

    from evaluators.protocol import Evaluator, Example, Task
    from merging.checkpoint import Checkpoint
    from merging.recipe import Recipe
    from merging.sources import Sources
    from optimizer.virtual import Virtual
    from search_spaces.methods import SearchedMethods

Say = Callable[[str], None]
Twins = Mapping[str, str | None]  # for every task, why it has no gradient; None where it has one

_PYTHON_AND_LIBRARIES = 1_000_000_000  # one worker with torch, transformers and lm-eval loaded, measured 0.8-0.9 GB
_LOADED_HERE = 2 * 2**30  # a larger model of the user's own function is first loaded by a worker
_ACTIVATIONS = 0.25  # share of the model's bytes added for activations and key-value caches, a rough allowance


@dataclass(frozen=True)
class Checked:
    """What preflight found: the plan, the examples with their splits, and notes worth showing."""

    plan: Plan
    examples: list["Example"]
    notes: list[str]


def preflight(job: JobFile, folder: Path, say: Say = lambda _: None, local: bool = True) -> Checked:
    """Check engine, method, models, space, tasks, budget, disk, memory and weights, what is quick first.

    `local` says that the workers will run on this machine, so that its memory is theirs. Raises `InputError` for
    everything that would make the job fail later. Writes nothing.
    """
    from evaluators.twins import twins_of
    from merging.source_notes import source_notes

    _check_engine(job)
    check_trackers(job.report_to)
    _check_method(job)
    check_kind(job)
    check_vllm(job, local)
    say("Checking the models")
    sources = _open_models(job)
    model = check_architecture(job, sources.reference)
    say("Checking space and tasks")
    _check_path(job, sources)
    sketch = _plan(job, _template(job, {}, {}), sources)  # without fingerprints, which take reading every weight
    evaluator = open_evaluator(job)
    check_evaluator(evaluator, model)
    examples = list(evaluator.examples())
    counts = _check_splits(examples)
    _check_leaks(examples)
    _check_budget(job, sketch, counts["search"], _check_batch(job, examples))
    _check_folder(folder)
    twins, tasks = twins_of(evaluator), tuple(evaluator.tasks())
    no_gradient = _no_gradient(job, tasks, twins, counts)
    needs = sketch.needs if no_gradient is not None else _with_gradients(job, sketch.needs, model)
    virtual = _virtual(job, tasks, twins, model, sketch, counts)
    made = len(virtual) * needs.model_bytes  # written into the job's folder as the search goes on
    needs = needs.model_copy(update={"disk_bytes": needs.disk_bytes + made})
    _check_disk(needs, folder)
    if local:
        check_workers(job, needs)
    fingerprints = _read_weights(sources, say)
    template = _with_statistics(job, _template(job, fingerprints, _commits(sources)))
    plan = _plan(job, template, sources, virtual)
    found = {"examples": counts, "tasks": tasks, "no_gradient": no_gradient, "needs": needs}
    plan = plan.model_copy(update=found)
    if job.engine() == AUTO and job.models.base is not None:
        plan = plan.model_copy(update={"baselines": (*plan.baselines, *_further(job, plan, sources))})
        _check_budget(job, plan, counts["search"], None)
    return Checked(plan, examples, [*_notes(job, evaluator), *_twins(fingerprints), *source_notes(sources)])


def open_evaluator(job: JobFile) -> "Evaluator":
    """The job's evaluators as one, with their tasks loaded and their examples split. Raises `InputError`."""
    from evaluators.protocol import EvaluatorError
    from evaluators.setting import Setting
    from evaluators.spec import open_evaluators

    setting = Setting(
        job.dealt(),
        lambda: open_tokenizer(job),
        allow_code=job.trust_task_code,
        smooth=job.search.signal == "smooth",
        experts=tuple(job.models.experts),
        folder_of=lambda expert: str(_expert_folder(job, expert)),
    )
    try:
        return open_evaluators(job.evaluate, setting)
    except EvaluatorError as error:
        raise InputError(str(error)) from error


def _expert_folder(job: JobFile, expert: str) -> Path:
    from merging.locate import locate
    from merging.recipe import Source

    model = job.models.experts[expert]
    return locate(Source(path=model.path, revision=model.revision))[0]


def open_tokenizer(job: JobFile) -> Any:
    """The tokenizer of the base, or of the first expert where there is no base."""
    from transformers import AutoTokenizer

    model = job.models.base or next(iter(job.models.experts.values()))
    try:
        return AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=job.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model.path}: must have a tokenizer that transformers can load, but: {first_line(error)}. Put the "
            "tokenizer's files (tokenizer.json, tokenizer_config.json) beside the weights."
        ) from error


def _check_engine(job: JobFile) -> None:
    name = job.engine()
    if name not in (AUTO, *ENGINES):
        raise InputError(f"there is no engine `{name}`; {suggest(name, [AUTO, *ENGINES])}.")
    if job.search.batch is not None and job.search.engine == AUTO:
        raise InputError(
            "`search.batch` sets the examples of a generation, which the engine `auto` does by itself; leave `batch` "
            "out, or choose `engine: cma-es` or `gp`."
        )
    if name != AUTO:
        ENGINES[name].check(len(job.objectives()))
        if job.searches_settings():
            ENGINES[name].check_settings()
        if job.search.batch is not None:
            ENGINES[name].check_batch()


def check_kind(job: JobFile) -> None:
    """Whether the evaluators can score this kind of model."""
    for spec in job.evaluate:
        if spec.scores is not None and spec.scores != job.models.load:
            raise InputError(
                f"the evaluator `{spec.evaluator}` scores models of the kind {spec.scores}, but `models.load` is "
                f"{job.models.load}; set `load: {spec.scores}` under `models`, or use another evaluator."
            )


def _check_method(job: JobFile) -> None:
    from merging.check import check_method

    try:
        check_method(_template(job, {}, {}))
    except ValueError as error:
        raise InputError(str(error)) from error


def _open_models(job: JobFile) -> "Sources":
    """Every model opened and compared with the others."""
    from merging.compatibility import check_tokenizers
    from merging.sources import Sources

    try:
        sources = Sources(_template(job, {}, {}))
        if "embeddings" not in job.models.unmerged:
            first, *others = [*([sources.base] if sources.base is not None else []), *sources.experts.values()]
            check_tokenizers(first, others)
    except ValueError as error:
        raise InputError(str(error)) from error
    return sources


def check_architecture(job: JobFile, checkpoint: "Checkpoint") -> "nn.Module | None":
    """Whether a worker will be able to build the model and to fill it; built here as far as that is cheap.

    The model as it was built, most often without weights; None where it was not.
    """
    from merging.resident import Places
    from optimizer.loading import TENSORS, empty_model, own_model

    load, folder = job.models.load, str(checkpoint.folder)
    if load == TENSORS or (is_function(load) and checkpoint.nbytes > _LOADED_HERE):
        return None
    try:
        model = own_model(load, folder) if is_function(load) else empty_model(job, folder)
    except InputError:
        raise
    except Exception as error:  # whatever the model's own code raises
        kind = "causal language model" if load == "causal-lm" else f"{load} model"
        raise InputError(
            f"{folder}: transformers must be able to build a {kind} from its config.json, "
            f"but: {first_line(error)}. Check `model_type` there, or upgrade transformers."
        ) from error
    try:
        places = Places(model)
        for name, shape in checkpoint.shapes.items():
            places.of(name, shape)
        places.check_complete()
    except ValueError as error:
        raise InputError(f"{folder}: a worker could not be filled with these weights: {error}") from error
    return model


def check_evaluator(evaluator: "Evaluator", model: "nn.Module | None") -> None:
    """Whether such a model can be asked what the tasks ask."""
    from evaluators.protocol import EvaluatorError

    if model is None:
        return
    try:
        evaluator.check_model(model)
    except EvaluatorError as error:
        raise InputError(str(error)) from error


def _read_weights(sources: "Sources", say: Say) -> dict[str, str]:
    """Fingerprint every model, the base under the name "", refusing NaN and infinity in a source."""
    from merging.checkpoint import fingerprint
    from merging.compatibility import non_finite

    fingerprints = {}
    base = {"": sources.base} if sources.base is not None else {}
    for name, checkpoint in {**base, **sources.experts}.items():
        say(f"Reading the weights of {name or 'the base'}")
        broken = non_finite(checkpoint)
        if broken:
            raise InputError(
                f"{checkpoint.folder}: weights must be finite, but {len(broken)} tensors hold NaN or infinity, "
                f"first {broken[0]}. Re-download or re-save the model."
            )
        fingerprints[name] = fingerprint(checkpoint)
    return fingerprints


def _with_statistics(job: JobFile, template: "Recipe") -> "Recipe":
    """The template with the fingerprint of the statistics that its method reads; a search over methods reads none."""
    from merging.materialize import MergeError
    from merging.sources import statistics_of

    if job.searched_methods() is not None:
        return template
    try:
        return template.model_copy(update={"statistics": statistics_of(template)})
    except MergeError as error:
        raise InputError(str(error)) from error


def _commits(sources: "Sources") -> dict[str, str]:
    """The commit of every model from the Hub, which is what its folder in the cache is called."""
    models = {**({} if sources.base is None else {"": sources.base}), **sources.experts}
    return {name: model.folder.name for name, model in models.items() if model.from_hub}


def _template(job: JobFile, fingerprints: Mapping[str, str], commits: Mapping[str, str]) -> "Recipe":
    from merging.recipe import Recipe

    base, experts = sources_of(job, fingerprints, commits)
    method, structure = job.first_method()
    return Recipe(
        method=method,
        base=base,
        experts=experts,
        coefficients={},
        structure=structure,
        seed=job.search.seed,
        dtype=job.dtype,
        unmerged=job.models.unmerged,
    )


def _virtual(
    job: JobFile,
    tasks: Sequence["Task"],
    twins: Twins,
    model: "nn.Module | None",
    sketch: Plan,
    counts: dict[str, int],
) -> tuple["Virtual", ...]:
    """The virtual experts that may join: those the job names, or TIES and RegMean where nothing speaks against them."""
    from merging.statistics import gram_bytes
    from optimizer.virtual import STATISTICS

    low, high = job.space.bounds
    against = None
    if job.engine() != AUTO:
        against = f"only the engine `auto` makes them, but this job's is `{job.engine()}`"
    elif job.first_method()[0] != "task_arithmetic" or job.models.base is None:
        against = "they are mixed in by the method `task_arithmetic`"
    elif not low <= 0 <= high or high < 1 or job.space.rest is not None:
        against = "the space's `bounds` must hold 0 and 1, and `rest` must not be set"
    elif job.workers.engine != "torch":
        against = "they are made by workers whose engine is `torch`"
    wanted = job.search.virtual
    if wanted is None:
        if against is not None or model is None or len(job.models.experts) < 2:
            return ()
        calibrated = counts.get("gradient") and gram_bytes(model) <= 2 * sketch.needs.model_bytes
        found: tuple[Virtual, ...] = ("ties", "regmean") if calibrated else ("ties",)
        return tuple(kind for kind in found if kind not in job.models.experts)
    needing = [kind for kind in wanted if kind in STATISTICS]
    if against is None and needing and not counts.get("gradient"):
        against = f"`{needing[0]}` needs gradient examples, and the job's `splits` give none"
    without = next((why for why in twins.values() if why is not None), None)
    if against is None and "fisher" in wanted and without is not None:
        against = f"`fisher` needs gradients, but {without}"
    if against is None and "fisher" in wanted and any(task.teacher is not None for task in tasks):
        against = "`fisher` needs gold answers, but a task has a `teacher` in their place"
    taken = [kind for kind in wanted if kind in job.models.experts or wanted.count(kind) > 1]
    if against is None and taken:
        against = f"every expert has a name of its own, but `{taken[0]}` is there twice"
    if wanted and against is not None:
        raise InputError(f"`search.virtual`: {against}; leave it out, or set `virtual: []`.")
    return wanted


def _plan(job: JobFile, template: "Recipe", sources: "Sources", virtual: tuple["Virtual", ...] = ()) -> Plan:
    """Raises `InputError` where the space does not fit the model."""
    from merging.check import check_recipe
    from merging.methods import METHODS
    from search_spaces.spec import bind

    groups = sources.groups
    names = METHODS[template.method].coefficients(tuple(template.experts))
    methods = job.searched_methods()
    try:
        _check_rows(methods, tuple(template.experts))
        space = bind(job.space, template, groups, (*names, *virtual), dict.fromkeys(virtual), methods)
        real = bind(job.space, template, groups, names, methods=methods)
        for corner in real.corners():
            check_recipe(real.recipe(corner), groups)
    except ValueError as error:
        raise InputError(str(error)) from error
    found = baselines(job, template, groups, space)
    uniform = next((one.parameters for one in found if one.label == "uniform average"), None)
    return Plan(
        template=template,
        groups=tuple((group.layer, group.module) for group in groups),
        coefficient_names=names,
        virtual=virtual,
        baselines=tuple(found),
        start=uniform,
        tasks=(),
        examples={},
        needs=_needs(job, sources.reference),
    )


def _check_path(job: JobFile, sources: "Sources") -> None:
    """Whether layers can be left out and repeated in these models. Raises `InputError`."""
    from merging.errors import MergeError
    from merging.layer_path import check_writers, layers_in
    from optimizer.deepened import deepened_config

    if job.space.path is None:
        return
    deepened_config(job, sources.config_folder, longest(job.space.path, sources.groups))
    try:
        layers = layers_in(sources.reference.names)
        check_writers(layers[min(layers)])
    except MergeError as error:
        raise InputError(f"`space.path`: {error}") from error


def _check_rows(methods: "SearchedMethods | None", experts: tuple[str, ...]) -> None:
    """Methods of one search share its coefficients. Raises `ValueError` where they do not take the same."""
    from merging.methods import METHODS

    taken = {one.name: METHODS[one.name].coefficients(experts) for one in methods.options} if methods else {}
    first = next(iter(taken), "")
    for name, names in taken.items():
        if names != taken[first]:
            raise ValueError(
                f"methods that are searched together must take the same coefficients, but `{first}` takes "
                f"{', '.join(taken[first])} and `{name}` takes {', '.join(names)}; search them in jobs of their own"
            )


def _further(job: JobFile, plan: Plan, sources: "Sources") -> list[Baseline]:
    """What the engine `auto` also compares: task arithmetic that grows with depth (LiNeS), and by norms (MetaGPT)."""
    from merging.groups import Group
    from merging.norms import squared_norms

    groups = [Group(layer, module) for layer, module in plan.groups]
    try:
        return further_baselines(job, plan, groups, squared_norms(sources))
    except ValueError:  # every expert is the base itself: there is no norm to go by
        return []


def _no_gradient(job: JobFile, tasks: Sequence["Task"], twins: Twins, counts: dict[str, int]) -> str | None:
    """Why the search cannot have the gradient of the coefficients, None where it can."""
    from merging.coefficient_gradient import is_differentiable

    if job.workers.engine != "torch":
        return f"models inside {job.workers.engine} have no gradient"
    reason = is_differentiable(*job.first_method())
    if reason is not None:
        return reason
    counted = [task.name for task in tasks if task.objective is not None]
    reason = next((why for task, why in twins.items() if task in counted and why is not None), None)
    if reason is None and not counts.get("gradient"):
        return "the job's `splits` give no examples to `gradient`"
    return reason


def _check_splits(examples: list["Example"]) -> dict[str, int]:
    """Examples per split. Every task needs at least two in each but gradient: one cannot be averaged."""
    from evaluators.protocol import NEEDED, SPLITS

    counts = {str(split): sum(example.split == split for example in examples) for split in SPLITS}
    for task in dict.fromkeys(example.task for example in examples):
        for split in NEEDED:
            here = sum(example.task == task and example.split == split for example in examples)
            if here < 2:
                raise InputError(
                    f"task `{task}` must have at least 2 examples in the {split} split, but has {here}; "
                    "raise `limit`, change `splits`, or use a task with more documents."
                )
    return {split: count for split, count in counts.items() if count}


def _check_leaks(examples: list["Example"]) -> None:
    """No document that one task keeps for its test may be looked at by another before."""
    tested = {example.id.rpartition(":")[2]: example.task for example in examples if example.split == "test"}
    seen = [example for example in examples if example.split != "test" and example.id.rpartition(":")[2] in tested]
    if seen:
        here, there = seen[0].task, tested[seen[0].id.rpartition(":")[2]]
        raise InputError(
            f"a test document must not be searched on, but {len(seen)} are: the first is in the test split of "
            f"`{there}` and in the {seen[0].split} split of `{here}`. Give both tasks the same validation and test "
            "documents, or data of their own."
        )


def _check_batch(job: JobFile, examples: list["Example"]) -> int | None:
    """The examples a candidate is scored on where that is not the whole split. Raises `InputError`."""
    if job.search.batch is None:
        return None
    searched = ((example.task, example.id) for example in examples if example.split == "search")
    batches = batches_of(searched, job.search.batch, job.search.seed)
    shortage = batches.shortage()
    if shortage is not None:
        raise InputError(f"`search.batch`: {shortage}.")
    return sum(batches.shares().values())


def _check_budget(job: JobFile, plan: Plan, search_examples: int, batch: int | None) -> None:
    budget, needed = job.search.budget, len(plan.baselines) + 1
    if budget.trials is not None and budget.trials < needed:
        raise InputError(
            f"`search.budget.trials` must cover the {len(plan.baselines)} baselines and at least one candidate, "
            f"{needed} trials, but is {budget.trials}."
        )
    if job.engine() == AUTO:
        _check_examples(job, least_examples(len(plan.baselines)))
        return
    if batch is not None and budget.examples is not None and budget.examples < needed * batch + search_examples:
        raise InputError(
            f"`search.budget.examples` must cover {needed} trials of {batch} examples and the engine's answer on all "
            f"{search_examples}, {needed * batch + search_examples} in all, but is {budget.examples}."
        )
    if batch is None and budget.examples is not None and budget.examples < needed * search_examples:
        raise InputError(
            f"`search.budget.examples` must cover {needed} trials of {search_examples} examples, "
            f"{needed * search_examples} in all, but is {budget.examples}."
        )


def _check_examples(job: JobFile, needed: int) -> None:
    examples = job.search.budget.examples
    if examples is not None and examples < needed:
        raise InputError(
            f"`search.budget.examples` must cover what the engine `auto` compares its warm starts on, {needed} in all, "
            f"but is {examples}."
        )


def _needs(job: JobFile, checkpoint: "Checkpoint") -> Needs:
    from merging.checkpoint import dtype_bytes
    from merging.groups import group_of

    deeper = job.space.path.repeats if job.space.path is not None else 1
    compute_bytes = sum(
        dtype_bytes(job.workers.dtype) * _size(shape) * (deeper if group_of(name).layer is not None else 1)
        for name, shape in checkpoint.shapes.items()
    )
    largest = max(_size(shape) for shape in checkpoint.shapes.values()) * 4
    streams = len(job.models.experts) + 2
    worker = int(_PYTHON_AND_LIBRARIES + compute_bytes * (1 + _ACTIVATIONS) + largest * streams)
    return Needs(
        model_bytes=checkpoint.nbytes,
        worker_memory_bytes=worker,
        total_memory_bytes=worker * job.workers.count,
        disk_bytes=int(checkpoint.nbytes * 1.05) + 50_000_000,
    )


def _with_gradients(job: JobFile, needs: Needs, model: "nn.Module | None") -> Needs:
    """With the activations that workers on CPUs keep for backward passes, where the search takes gradients."""
    import torch

    from evaluators.lm.differentiable import backward_bytes

    config = getattr(model, "config", None)
    if job.engine() != AUTO or job.workers.torch_device() != "cpu" or config is None:
        return needs
    caps: list[int | None] = [getattr(spec, "batch_tokens", None) for spec in job.evaluate]
    cap = None if None in caps else max(one for one in caps if one is not None)
    dtype = getattr(torch, job.workers.dtype)
    more = backward_bytes(config, dtype, cap, logits=job.models.load == "causal-lm")
    worker = needs.worker_memory_bytes + more
    found = {"worker_memory_bytes": worker, "total_memory_bytes": worker * job.workers.count, "gradient_bytes": more}
    return needs.model_copy(update=found)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def check_workers(job: JobFile, needs: Needs) -> None:
    """Whether this machine has the memory and the GPUs for the job's workers. Raises `InputError`."""
    if job.workers.gpus > 0 or job.workers.torch_device() == "cuda":
        _check_gpus(job.workers)
    memory = psutil.virtual_memory().available
    if job.workers.torch_device() == "cpu" and needs.total_memory_bytes > memory:
        without = ", or search without gradients (`splits` that give `gradient` no examples)"
        raise InputError(
            f"{job.workers.count} workers need about {memory_of(job, needs)}, but {gib(memory)} "
            f"is available; lower `workers.count`, or use `workers.dtype: bfloat16`"
            f"{without if needs.gradient_bytes else ''}."
        )


def memory_of(job: JobFile, needs: Needs) -> str:
    """All workers' memory, for people."""
    gradients = needs.gradient_bytes * job.workers.count
    part = f" ({gib(gradients)} of it for gradients)" if gradients else ""
    return f"{gib(needs.total_memory_bytes)} of memory{part}"


def _check_gpus(workers: Workers) -> None:
    """Ray waits for ever for a worker that asks for more GPUs than there are."""
    import torch

    if not torch.cuda.is_available():
        raise InputError("`workers` asks for CUDA, but torch finds no CUDA device; set `device: cpu`, `gpus: 0`.")
    here, wanted = torch.cuda.device_count(), workers.count * workers.gpus
    if wanted > here:
        raise InputError(
            f"{workers.count} workers with {workers.gpus:g} GPUs each need {wanted:g}, but there are {here}; "
            "lower `workers.count`, or share a GPU with a fraction such as `gpus: 0.5`."
        )


def _check_folder(folder: Path) -> None:
    place = nearest_existing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(
            f"{folder}: the job's files must go into a folder, but {place} is none that can be written to."
        )


def _check_disk(needs: Needs, folder: Path) -> None:
    free = shutil.disk_usage(nearest_existing(folder)).free
    if needs.disk_bytes > free:
        raise InputError(
            f"the job's files and one export need about {gib(needs.disk_bytes)} in {folder}, but {gib(free)} is free; "
            "make room or choose another folder with --folder."
        )


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the closest parent that exists."""
    return next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())


def gib(count: float) -> str:
    """Bytes for people: `1.5 GiB`, `12 MiB`."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.1f} MiB"


def _twins(fingerprints: dict[str, str]) -> list[str]:
    """Experts with the same weights: likely one path written twice."""
    first: dict[str, str] = {}
    found = []
    for name, fingerprint in fingerprints.items():
        other = first.setdefault(fingerprint, name)
        if other != name:
            found.append(f"expert `{name}` has the very weights of {f'expert `{other}`' if other else 'the base'}.")
    return found


def _notes(job: JobFile, evaluator: "Evaluator") -> list[str]:
    """What a careful person would want to be told before the search starts."""
    notes = []
    if job.search.signal == "smooth":
        notes.append("the search follows the smooth twin of each metric; tables show the metric itself.")
    for task, counts in evaluator.counts().items():
        if counts.duplicates:
            notes.append(
                f"`{task}`: {counts.duplicates} documents that come twice, but for case and white space, are kept once."
            )
        if counts.leaked:
            notes.append(f"`{task}`: {counts.leaked} documents are left out, they are scored in another split.")
    code = [*([job.models.load] if is_function(job.models.load) else []), *(c for e in job.evaluate for c in e.runs())]
    notes += [f"code of yours runs here and on the workers: {one}." for one in dict.fromkeys(code)]
    if job.trust_task_code:
        notes.append("`trust_task_code` is on: code in the task files runs here and on the workers.")
    if job.trust_remote_code:
        notes.append("`trust_remote_code` is on: code that comes with the models runs here and on the workers.")
    return notes
