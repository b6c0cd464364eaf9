"""Find the tasks a job names and load them, refusing code that nobody asked for."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.registry import metric_registry
from lm_eval.tasks import TaskManager

from evaluators.harness.items import Asked
from evaluators.harness.reading import read_task, shown_from
from evaluators.lm_eval_tasks import LmEvalSpec, LmEvalTask
from evaluators.protocol import EvaluatorError
from evaluators.splits import Document, Origin, Question
from evaluators.task_files import code_references, unreadable

SHIPPED = Path(lm_eval.__file__).resolve().parent


def load_tasks(spec: LmEvalSpec, allow_code: bool) -> list[tuple[LmEvalTask, list[Asked]]]:
    """The spec's entries, each with its leaf tasks."""
    manager = _manager(spec)
    loaded: list[tuple[LmEvalTask, list[Asked]]] = []
    names: dict[str, str] = {}
    for entry in spec.tasks:
        _refuse_code(manager.task_index, entry.task, allow_code)
        _refuse_without_documents(manager.task_index[entry.task])
        try:
            leaves = manager.load([entry.task])["tasks"]
        except Exception as error:  # lm-eval, datasets and Jinja each raise their own
            raise EvaluatorError(f"task `{entry.task}` could not be loaded: {type(error).__name__}: {error}") from error
        for name in leaves:
            if name in names:
                raise EvaluatorError(f"task `{name}` is listed twice, by `{names[name]}` and by `{entry.task}`.")
            names[name] = entry.task
        loaded.append((entry, [read_task(task, entry, len(leaves)) for task in leaves.values()]))
    return loaded


def training_of(asked: Asked) -> dict[Origin, list[Document]]:
    """The task's training documents, for the gradient alone; none where its few-shot examples are taken from them.

    A prompt could show the very document it asks about.
    """
    task = asked.lm_task
    split = task.config.training_split
    scored = (task.config.validation_split, task.config.test_split)
    if split is None or split in scored or (asked.shots and shown_from(task) == split):
        return {}
    rows = list(task.training_docs())
    return {"training": rows} if rows else {}


def question_of(asked: Asked) -> Question:
    """What a document asks: its prompt, with the choices there are; with the answer where that is part of the question.

    A text whose perplexity is taken is asked about as a whole, and so is what the task's templates do not fit: whether
    such a document is refused is decided where its example is made.
    """
    task, kind = asked.lm_task, asked.kind

    def question(document: Document) -> Any:
        try:
            if kind == "multiple_choice" and task.multiple_input:  # the choices are contexts, the target ends them all
                return [task.doc_to_choice(document), task.doc_to_target(document)]
            if kind == "multiple_choice":
                return [task.doc_to_text(document), task.doc_to_choice(document)]
            if kind == "loglikelihood":
                return [task.doc_to_text(document), task.doc_to_target(document)]
            return task.doc_to_text(document) if kind == "generate_until" else document
        except Exception:  # lm-eval, Jinja and functions of the task's own each raise what they like
            return document

    return question


def _manager(spec: LmEvalSpec) -> Any:
    """An index of the included folders alone where they have every name: lm-eval's own takes 7 to 11 s."""
    folders = [Path(folder) for folder in spec.include_path or ()]
    for folder in folders:
        if not folder.is_dir():
            raise EvaluatorError(f"`include_path` must name folders, but `{folder}` is not one.")
    found: list[str] = []
    if folders:
        manager = TaskManager(include_path=folders, include_defaults=False)
        found = manager.all_tasks
        if not _missing(manager.task_index, spec):
            return manager
    manager = TaskManager(include_path=folders or None)
    missing = _missing(manager.task_index, spec)
    if missing:
        near = get_close_matches(missing[0], manager.all_tasks, n=5)
        raise EvaluatorError(
            f"task `{missing[0]}` is not known."
            + (f" Nearest: {', '.join(near)}." if near else "")
            + (f" In {', '.join(map(str, folders))}: {', '.join(found) or 'no task'}." if folders else "")
            + "".join(f" Not readable: {problem}." for problem in unreadable(folders))
        )
    return manager


def _missing(index: Mapping[str, Any], spec: LmEvalSpec) -> list[str]:
    return [name for entry in spec.tasks for name in _members(index, entry.task) if name not in index]


def _members(index: Mapping[str, Any], name: str) -> list[str]:
    """A name with the names of all tasks, groups and tags below it, known to the index or not."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found.append(name)
        entry = index.get(name)
        if entry is None:
            continue
        children = (entry.cfg or {}).get("task")
        if isinstance(children, list):  # a group; members written out in place have no entry of their own
            waiting += [child for child in children if isinstance(child, str)]
            inside = [child.get("group") or child.get("task") for child in children if isinstance(child, dict)]
            waiting += [child for child in inside if isinstance(child, str) and child in index]
        elif entry.yaml_path is None:  # a tag
            waiting += sorted(entry.tags)
    return found


def _refuse_code(index: Mapping[str, Any], name: str, allow_code: bool) -> None:
    """Refuse, before anything is loaded, task files that would run Python.

    Functions of the tasks that come with lm-eval are part of that package and pass; what they fetch or
    execute (code benchmarks, metrics from the Hub) does not.
    """
    if allow_code:
        return
    for member in _members(index, name):
        entry = index[member]
        if entry.yaml_path is not None and not entry.yaml_path.resolve().is_relative_to(SHIPPED):
            found = code_references(entry.yaml_path)
            if found:
                raise EvaluatorError(
                    f"task `{member}` would run Python code, at {found[0]}. "
                    "Write it with Jinja templates and lm-eval's filters, or allow code for files you trust."
                )
        config = entry.cfg or {}
        if config.get("unsafe_code"):
            raise EvaluatorError(
                f"task `{member}` runs the code that the model writes. Allow code only inside a sandbox."
            )
        for metric in config.get("metric_list") or []:
            _refuse_fetched_metric(member, metric, config.get("process_results") is not None)


def _refuse_fetched_metric(name: str, metric: Mapping[str, Any], computed: bool) -> None:
    known = metric.get("metric")
    if computed or not isinstance(known, str) or "/" in known:
        return  # computed by the task's own function, which was judged already
    if metric.get("hf_evaluate") or known not in metric_registry:
        raise EvaluatorError(
            f"metric `{known}` of task `{name}` is code that lm-eval would fetch from the Hub and run. "
            f"Known without fetching: {', '.join(sorted(metric_registry))}. Use one of these, or allow code."
        )


def _refuse_without_documents(entry: Any) -> None:
    config = entry.cfg or {}
    if isinstance(config.get("task"), str) and not (config.get("validation_split") or config.get("test_split")):
        raise EvaluatorError(
            f"task `{entry.name}` has neither validation nor test documents, and training documents are never "
            "scored. Name a `validation_split` or a `test_split` in its file."
        )
