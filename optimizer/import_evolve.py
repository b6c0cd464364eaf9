"""Turn a config of mergekit-evolve into a job file that asks for the same search."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from merging.file_kinds import refuse_other_kinds
from merging.frozen import Frozen
from merging.groups import MODULES, group_of
from merging.locate import locate
from merging.mergekit.read import without_unknown
from merging.mergekit.reference import ModelReference
from merging.numbers import Number, Whole
from merging.places import found
from merging.weight_files import read_json
from merging.yaml_file import FileError, parse, read_mapping
from optimizer.errors import InputError
from optimizer.spec import JobFile

Method = Literal["linear", "task_arithmetic", "ties", "dare_ties", "slerp"]
_NORMALIZED = ("ties", "dare_ties", "linear")  # what `normalize: null` turns on
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers")


class Genome(Frozen):
    """What a candidate of mergekit-evolve is."""

    models: tuple[ModelReference, ...] = Field(min_length=1)
    merge_method: Method
    base_model: ModelReference | None = None
    tokenizer_source: str | None = None
    layer_granularity: Whole = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: tuple[str, ...] | None = None
    smooth: bool = False

    @model_validator(mode="after")
    def _what_the_method_needs(self) -> "Genome":
        if self.merge_method in ("ties", "dare_ties", "task_arithmetic") and self.base_model is None:
            raise ValueError(f"`base_model` must be given for {self.merge_method}, but is not")
        if self.merge_method == "slerp" and (self.smooth or self.filters):
            raise ValueError("slerp goes without `smooth` and `filters`, as in mergekit, but has one")
        return self


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class EvolveTask(Frozen):
    """An lm-eval task; a negative weight is for a metric that should fall."""

    name: str = Field(min_length=1)
    weight: Number = 1.0
    metric: str = Field(default="acc,none", pattern=r"^[^,]+(,[^,]+)?$")


class EvolveFile(Frozen):
    """The whole file."""

    genome: Genome
    tasks: tuple[Annotated[EvolveTask, BeforeValidator(_named)], ...] = Field(min_length=1)
    limit: Annotated[Whole, Field(ge=1)] | None = None
    num_fewshot: Annotated[Whole, Field(ge=0)] | None = None
    shuffle: bool = False
    random_init: bool = False
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True


@dataclass
class _Draft:
    """The job as it takes shape, and what is worth saying about it: from `folder`, to stand in `beside`."""

    folder: Path
    beside: Path
    content: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def import_evolve(
    file: Path,
    name: str | None = None,
    trials: int = 100,
    seed: int = 0,
    include: Sequence[str] = (),
    beside: Path | None = None,
    lenient: bool = False,
) -> str:
    """The text of a job file, with comments about what it could not take over.

    `trials`, `seed` and `include` are mergekit-evolve's `--max-fevals`, `--random-seed` and `--task-search-path`. Local
    paths are written as seen from the folder `beside`, where the job file goes. Unknown keys are left out if `lenient`.
    Raises `InputError` where the config is wrong, or asks for what a job cannot.
    """
    draft = _Draft(file.resolve().parent, (beside or Path.cwd()).resolve())
    try:
        content = read_mapping(file)
        refuse_other_kinds(file, content, "a config of mergekit-evolve")
        if lenient:
            content, ignored = without_unknown(content, EvolveFile)
            draft.notes += [f"The unknown key `{key}` is left out." for key in ignored]
        evolve = parse(content, EvolveFile, str(file))
    except FileError as error:
        raise InputError(str(error)) from None
    draft.content["name"] = name or re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._") or "evolve"
    experts = _models(evolve.genome, draft)
    _method(evolve.genome, draft)
    _space(evolve.genome, file, draft)
    _evaluate(evolve, include, draft)
    if draft.content["method"]["name"] == "slerp" and len(experts) > 2:
        raise InputError(
            f"{file}: mergekit-evolve's slerp chooses the two best of {len(experts)} models anew for each layer, "
            "which a job cannot; name two models, or use `linear`."
        )
    engine = "tpe" if "density" in draft.content["method"] else "cma-es"
    draft.content["search"] = {"engine": engine, "budget": {"trials": trials}, "seed": seed}
    draft.content["dtype"] = "bfloat16"
    if engine == "tpe":
        draft.notes.append(
            "`engine: tpe` searches settings of methods too. With a fixed `density` the job can be searched by "
            "`cma-es`, as mergekit-evolve does, or by `auto`."
        )
    else:
        draft.notes.append(
            "`engine: cma-es` is what mergekit-evolve searches with. Without the line `auto` searches, which needs "
            "fewer examples; give it `budget: {examples: ...}`."
        )
    _further(evolve, draft)
    return _written(file, draft)


def _models(genome: Genome, draft: _Draft) -> list[str]:
    """`models`: the base, and experts under names made from their own."""
    base, experts = genome.base_model, list(genome.models)
    if genome.merge_method == "slerp" and base is not None:
        draft.notes.append("slerp goes from one model to the other, so `base_model` has no part in it and is left out.")
        base = None
    if base is not None and genome.merge_method not in ("linear", "slerp"):
        kept = [one for one in experts if not base.same(one)]
        if len(kept) < len(experts):
            draft.notes.append(
                "The base was one of the `models`; what it adds to itself is nothing, so it is left out."
            )
        experts = kept
    named: dict[str, Any] = {}
    for reference in experts:
        named[_name(reference, named)] = _model(reference, base, draft)
    if not named:
        raise InputError("there must be a model beside the base, but there is none.")
    draft.content["models"] = {
        **({"base": _model(base, None, draft)} if base is not None else {}),
        "experts": named,
    }
    return list(named)


def _name(reference: ModelReference, taken: dict[str, Any]) -> str:
    path = (reference.lora or reference.model).path
    plain = re.sub(r"[^A-Za-z0-9_+-]+", "-", path.rstrip("/").rpartition("/")[2]).strip("-")[:50] or "model"
    plain = f"{plain}-model" if plain == "base" else plain
    number, name = 1, plain
    while name in taken:
        number += 1
        name = f"{plain}-{number}"
    return name


def _model(reference: ModelReference, base: ModelReference | None, draft: _Draft) -> Any:
    model = reference.model
    if reference.lora is not None:
        if base is None or not base.same(ModelReference(model=model)):
            raise InputError(
                f"{reference}: an adapter can be an expert where it lies over the job's base, but this one lies over "
                f"{model}; merge it into its model first."
            )
        model = reference.lora
    if reference.override_architecture is not None:
        draft.notes.append("`override_architecture` has no effect: layers are told from the names of weights.")
    path = _place(model.path, draft)
    return {"path": path, "revision": model.revision} if model.revision else path


def _place(path: str, draft: _Draft) -> str:
    """A local path as seen from the job file: mergekit's are relative to where it is called. Hub ids stay."""
    there = found(path, (draft.folder, Path.cwd()))
    if there is None or Path(path).is_absolute():
        return path
    return os.path.relpath(there.resolve(), draft.beside)


def _method(genome: Genome, draft: _Draft) -> None:
    """`method`, with mergekit's behaviour, and a density for each expert as one that is searched."""
    normalize = genome.normalize if genome.normalize is not None else genome.merge_method in _NORMALIZED
    method: dict[str, Any] = {"name": genome.merge_method}
    if genome.merge_method == "linear":
        method["normalize"] = normalize
    elif genome.merge_method == "task_arithmetic" and normalize:
        draft.notes.append(
            "`normalize: true` of task arithmetic divides by the sum of weights; here weights are what they say, and "
            "the search finds their scale."
        )
    elif genome.merge_method in ("ties", "dare_ties"):
        method |= {
            "compat": "mergekit",
            "average": "weights" if normalize else "sum",
            "density": {"search": [0.05, 1.0]},
        }
        draft.notes.append(
            "`compat: mergekit` is the method as mergekit has it; without it, as in its paper. One density is searched "
            "for all models and layers, where mergekit-evolve has one for each."
        )
    draft.content["method"] = method


def _space(genome: Genome, file: Path, draft: _Draft) -> None:
    """`space`: how coefficients follow layers and modules, and their bounds."""
    layers = genome.layer_granularity
    if layers < 1:
        space: dict[str, Any] = {"granularity": "global"}
    elif genome.smooth:
        count = _layers(genome.models[0], file)
        if count % layers:
            raise InputError(f"`layer_granularity` must divide the number of layers, {count}, but is {layers}.")
        anchors = count // layers
        space = {"granularity": "smooth", "anchors": anchors} if anchors > 1 else {"granularity": "global"}
    else:
        space = {"granularity": "layerwise", "layers_per_group": layers}
    if layers >= 1:
        draft.notes.append(
            "Embeddings and head have coefficients of their own, where mergekit-evolve gives them those of the first "
            "and the last layers."
        )
    sets = _sets(genome.filters or (), draft)
    if sets:
        space["modules"] = sets
    wide = genome.merge_method in ("task_arithmetic", "dare_ties")
    low, high = (-0.5 if wide else -1.0) if genome.allow_negative_weights else 0.0, 1.5 if wide else 1.0
    space["bounds"] = [low, high]
    draft.notes.append(
        f"`bounds` are ours: mergekit-evolve has none{'' if genome.allow_negative_weights else ', and drops signs'}."
    )
    draft.content["space"] = space


def _sets(filters: Sequence[str], draft: _Draft) -> list[str]:
    """The modules that filters speak of, each a set of its own, and one for the rest."""
    found: list[str] = []
    for one in filters:
        module = _module_of(one)
        if module is None:
            draft.notes.append(f"The filter `{one}` belongs to no module known here, so it is part of the rest.")
        elif module not in found:
            found.append(module)
        if module is not None and one not in (module, "self_attn", "attn", "mlp", "norm", "embed_tokens", "lm_head"):
            draft.notes.append(f"The filter `{one}` is as fine as its module here: `{module}`.")
    rest = [module for module in MODULES if module not in found]
    return [*found, *(["+".join(rest)] if rest else [])] if found else []


def _module_of(text: str) -> str | None:
    if text in ("norm", "layernorm"):
        return "norms"
    module = group_of(f"model.layers.0.{text}.weight").module
    return None if module == "other" else module


def _layers(reference: ModelReference, file: Path) -> int:
    source = reference.model.source()
    local = file.resolve().parent / source.path
    try:
        folder = local if local.is_dir() else locate(source)[0]
        config = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{reference}: its number of layers must be known for `smooth`, but is not ({error})."
        ) from None
    found = next((config[name] for name in _COUNTS if isinstance(config.get(name), int)), None)
    if found is None:
        raise InputError(f"{reference}: config.json must say how many layers there are, for `smooth`, but does not.")
    return int(found)


def _evaluate(evolve: EvolveFile, include: Sequence[str], draft: _Draft) -> None:
    tasks = []
    for task in evolve.tasks:
        if task.weight == 0:
            draft.notes.append(f"`{task.name}` had no weight and is left out.")
            continue
        metric, _, kind = task.metric.partition(",")
        entry: dict[str, Any] = {"task": task.name, "metric": metric, **({"filter": kind} if kind else {})}
        entry["weight"] = abs(task.weight)
        if task.weight < 0:
            entry["direction"] = "minimize"
        if evolve.num_fewshot is not None:
            entry["fewshot"] = evolve.num_fewshot
        if evolve.limit is not None:
            entry["limit"] = {"search": evolve.limit}
        tasks.append(entry)
    if not tasks:
        raise InputError("at least one task must have a weight, but none has.")
    draft.content["evaluate"] = {
        **({"include_path": [_place(one, draft) for one in include]} if include else {}),
        "chat_template": evolve.apply_chat_template,
        "tasks": tasks,
    }


def _further(evolve: EvolveFile, draft: _Draft) -> None:
    """What has no place in a job."""
    if evolve.genome.tokenizer_source is not None:
        draft.notes.append(
            "`tokenizer_source` is not taken over: models of a job must have the same tokens (`mergeopt tokens` "
            "compares them, `mergeopt merge` can put them together)."
        )
    if evolve.shuffle:
        draft.notes.append("`shuffle` is not needed: examples are dealt by their content, whatever their order.")
    if evolve.random_init:
        draft.notes.append("`random_init` is not taken over: the search begins at the best of the baselines.")
    if evolve.apply_chat_template and evolve.fewshot_as_multiturn and evolve.num_fewshot:
        draft.notes.append("Few-shot examples stand in one turn: `fewshot_as_multiturn` is not taken over.")
    draft.notes.append(
        "mergekit-evolve scores candidates on what it reports. Here every task's examples are dealt to splits, and the "
        "winner's score is that on examples that the search never saw."
    )


def _written(file: Path, draft: _Draft) -> str:
    try:
        parse(json.loads(json.dumps(draft.content)), JobFile, str(file))
    except FileError as error:
        raise InputError(f"the config asks for what a job cannot do: {error}") from None
    head = [f"# From {file.name}, a config of mergekit-evolve. Local paths are relative to this file."]
    lines = [f"# - {note}" for note in dict.fromkeys(draft.notes)]
    text = yaml.safe_dump(draft.content, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return "\n".join([*head, *lines, "", text])
