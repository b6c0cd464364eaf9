"""The job file: what someone asks for, checked once at the door."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from evaluators.own_code import located_function
from evaluators.shares import WITH_GRADIENT, Splits
from evaluators.spec import Evaluate, counted
from evaluators.vllm.spec import VllmSpec
from merging.file_kinds import refuse_other_kinds
from merging.frozen import Frozen
from merging.named import Experts, Model, NamedMethod, NamedModel, located
from merging.recipe import DType, Structure, Unmerged
from merging.yaml_file import FileError, parse, read_mapping
from optimizer.auto.rule import AUTO, engine_for
from optimizer.errors import InputError
from optimizer.loading import check_load
from optimizer.virtual import Virtual
from search_spaces.grown import GrownSpace
from search_spaces.methods import SearchedMethods, is_searched
from search_spaces.spec import SpaceSpec

Signal = Literal["metric", "smooth"]
TrackerName = Literal["tensorboard", "mlflow", "wandb"]  # the keys of `optimizer.trackers.TRACKERS`
DIFFERENTIABLE = ("lm-eval", "perplexity", "text-classification")  # evaluators whose tasks may have a gradient


def _kind_of_method(value: Any) -> str:
    return "searched" if isinstance(value, SearchedMethods) or is_searched(value) else "given"


JobMethod = Annotated[
    Annotated[NamedMethod, Tag("given")] | Annotated[SearchedMethods, Tag("searched")], Discriminator(_kind_of_method)
]


class Models(Frozen):
    """The base and its experts. The experts keep the file's order everywhere, and their names reach every report.

    `load` says what kind of model they are, and so how a worker builds the one that is filled (`optimizer.loading`).
    Tensors of the modules in `unmerged` are taken from the base as they are.
    """

    base: Model | None = None
    experts: Experts
    load: str = "causal-lm"
    unmerged: Unmerged = ()

    @field_validator("load")
    @classmethod
    def _a_known_way(cls, load: str) -> str:
        check_load(load)
        return load


class Budget(Frozen):
    """When the search stops: at the first limit reached. Baselines are trials and count."""

    trials: int | None = Field(default=None, ge=1, le=1_000_000, strict=True)  # strict: `true` is not 1
    examples: int | None = Field(default=None, ge=1, strict=True)
    minutes: float | None = Field(default=None, gt=0, strict=True)

    @model_validator(mode="after")
    def _something_ends_the_search(self) -> "Budget":
        if self.trials is None and self.examples is None and self.minutes is None:
            raise ValueError("must name at least one of trials, examples, minutes, but names none")
        return self


class Search(Frozen):
    """How candidates are proposed, and for how long.

    `virtual` names closed-form merges that join the experts while the engine `auto` searches; None leaves the choice to
    it. `warm_start` names a finished job whose winner is one more baseline, and the start. `batch` has candidates
    scored on so many examples, fresh ones for each generation, in place of the search split. `finalists` is how many at
    most are scored on the select split; None leaves that to whatever searches.
    """

    engine: str = AUTO
    budget: Budget
    batch: int | None = Field(default=None, ge=2, strict=True)
    seed: int = Field(default=0, ge=0, lt=2**31, strict=True)
    signal: Signal = "metric"
    scales: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6)
    virtual: tuple[Virtual, ...] | None = None
    warm_start: str | None = Field(default=None, min_length=1)
    finalists: int | None = Field(default=None, ge=1, le=50, strict=True)

    @field_validator("virtual", mode="before")
    @classmethod
    def _virtual_is_a_list(cls, virtual: Any) -> Any:
        if virtual is not None and not isinstance(virtual, list | tuple):
            raise ValueError("must be a list, like [regmean], or [] for none")
        return virtual


class Workers(Frozen):
    """The processes that score candidates. `cpus` and `gpus` are per worker; a fraction of a GPU is allowed."""

    count: int = Field(default=1, ge=1, le=1024, strict=True)
    engine: Literal["torch", "vllm"] = "torch"
    vllm: VllmSpec = VllmSpec()
    cpus: float = Field(default=1, gt=0, le=1024)
    gpus: float = Field(default=0, ge=0, le=1024)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: DType = "float32"
    minutes_per_trial: float = Field(default=60, gt=0)

    @field_validator("gpus")
    @classmethod
    def _ray_shares_only_single_gpus(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be a fraction up to 1 or a whole number, but is {gpus}")
        return gpus

    def torch_device(self) -> str:
        """The device a worker puts its model on."""
        if self.device == "auto":
            return "cuda" if self.gpus > 0 else "cpu"
        return self.device


class JobFile(Frozen):
    """One search, as its user wrote it down. See `docs/job-file.md` for every key with an example."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    models: Models
    method: JobMethod = NamedMethod(name="task_arithmetic")
    space: SpaceSpec = GrownSpace(granularity="grown")
    evaluate: Evaluate
    splits: Splits | None = None
    search: Search
    workers: Workers = Workers()
    dtype: DType | None = None
    trust_remote_code: bool = False
    trust_task_code: bool = False
    report_to: tuple[TrackerName, ...] = ()

    @field_validator("report_to", mode="before")
    @classmethod
    def _trackers_are_a_list(cls, names: Any) -> Any:
        if not isinstance(names, list | tuple):
            raise ValueError("must be a list, like [tensorboard], or [] for none")
        if len(names) != len({str(name) for name in names}):
            raise ValueError(f"must name each tracker once, but is {list(names)}")
        return names

    def objectives(self) -> list[str]:
        """The names of what is maximised, in the order of the tasks that first name them."""
        named = [entry.objective for entry in counted(self.evaluate)]
        return list(dict.fromkeys(objective for objective in named if objective is not None))

    def engine(self) -> str:
        """What carries the search out: the engine it names, or what `auto` comes to for this job."""
        if self.search.engine != AUTO:
            return self.search.engine
        bounded = any(entry.bound is not None for entry in counted(self.evaluate))
        return engine_for(len(self.objectives()), bounded, self.searches_settings())

    def searched_methods(self) -> SearchedMethods | None:
        """What is searched beside coefficients: methods, or settings of one; None where the method is given."""
        return self.method if isinstance(self.method, SearchedMethods) else None

    def searches_settings(self) -> bool:
        """Whether trials differ in more than coefficients: in the method, its settings, or their layers."""
        return self.searched_methods() is not None or self.space.path is not None

    def first_method(self) -> tuple[str, Structure]:
        """The method, or the first of those that are searched, with the settings that are fixed."""
        if isinstance(self.method, SearchedMethods):
            return self.method.options[0].name, self.method.options[0].fixed()
        return self.method.name, self.method.structure

    def dealt(self) -> Splits:
        """How examples are dealt to the splits: as the job says, or as its engine needs them."""
        if self.splits is not None:
            return self.splits
        follows = self.engine() == AUTO and all(spec.evaluator in DIFFERENTIABLE for spec in self.evaluate)
        return WITH_GRADIENT if follows else Splits()

    @model_validator(mode="after")
    def _searches_for_something(self) -> "JobFile":
        if not self.objectives():
            raise ValueError(
                "`evaluate`: at least one task must count towards an `objective`, but all are only bounded"
            )
        for entry in counted(self.evaluate):
            of = entry.bound.of if entry.bound else None
            known = [*(["base"] if self.models.base else []), *self.models.experts]
            if of is not None and of not in known:
                raise ValueError(f"`bound.of` must name a model of the job, one of {', '.join(known)}, but is {of!r}")
        return self


def read_job_file(path: Path, name: str | None = None) -> JobFile:
    """The job file at `path`, local paths in it made absolute (they are relative to the file).

    `name` replaces the file's own name. Raises `InputError` with one line for each thing that is wrong.
    """
    try:
        content = read_mapping(path)
        refuse_other_kinds(path, content, "a job file")
        if name is not None:
            content["name"] = name
        job = parse(content, JobFile, str(path))
    except FileError as error:
        raise InputError(str(error)) from None
    return _with_absolute_paths(job, path.resolve().parent)


def _with_absolute_paths(job: JobFile, folder: Path) -> JobFile:
    def placed(model: NamedModel) -> NamedModel:
        return model.model_copy(update={"path": located(model.path, folder)})

    def absolute(path: str) -> str:
        return str((folder / Path(path).expanduser()).resolve())

    models = Models(
        base=placed(job.models.base) if job.models.base else None,
        experts={name: placed(model) for name, model in job.models.experts.items()},
        load=located_function(job.models.load, absolute),
        unmerged=job.models.unmerged,
    )
    method = job.method
    if isinstance(method, NamedMethod) and method.structure.get("statistics"):
        placed_statistics = absolute(str(method.structure["statistics"]))
        method = method.model_copy(update={"structure": {**method.structure, "statistics": placed_statistics}})
    evaluate = tuple(spec.located(absolute) for spec in job.evaluate)
    return job.model_copy(update={"models": models, "evaluate": evaluate, "method": method})
