"""Read what matters from a loaded task: metric, filter, shots, documents, gold answers."""

from difflib import get_close_matches
from typing import Any

from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.utils import normalize_gen_kwargs

from evaluators.harness.answers import ROLLING
from evaluators.harness.gen_options import check_options
from evaluators.harness.items import Asked, Item
from evaluators.lm_eval_tasks import LmEvalTask
from evaluators.protocol import EvaluatorError
from evaluators.splits import Document, Origin

DEFAULT_ANSWER = 256  # tokens, where a task's file does not say: `HFLM.max_gen_toks`
OUTPUT_TYPES = ("multiple_choice", "generate_until", "loglikelihood", "loglikelihood_rolling")


def read_task(task: Any, entry: LmEvalTask, shared: int) -> Asked:
    """Check a loaded task at the door, and settle its metric, filter and number of shots."""
    name = str(task.task_name)
    if not isinstance(task, ConfigurableTask):
        raise EvaluatorError(f"task `{name}` is a Python class ({type(task).__name__}); only YAML tasks are scored.")
    if task.OUTPUT_TYPE not in OUTPUT_TYPES:
        raise EvaluatorError(
            f"task `{name}` has output type `{task.OUTPUT_TYPE}`, which gives no score for each example. "
            f"Tasks of these types can be scored: {', '.join(OUTPUT_TYPES)}."
        )
    if getattr(task, "MULTIMODAL", False):
        raise EvaluatorError(f"task `{name}` needs images or audio, but only text can be asked.")
    if task.OUTPUT_TYPE == "generate_until":
        check_options(name, task.config.generation_kwargs)
    metric, higher_is_better = _metric(task, name, entry.metric)
    about = entry.as_task(name, metric, higher_is_better, shared)
    return Asked(task, about, _filter(task, name, entry.filter), _shots(task, name, entry.fewshot))


def _metric(task: Any, name: str, wanted: str | None) -> tuple[str, bool]:
    """The metric's name and whether higher is better."""
    ways: dict[str, Any] = task.aggregation()
    averaged = [metric for metric, way in ways.items() if way is mean]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        averaged += [metric for metric in ROLLING if metric in ways]
    offer = f"Its metrics that are: {', '.join(averaged) or 'none'}."
    if wanted is not None and wanted not in ways:
        near = get_close_matches(wanted, ways, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else "."
        raise EvaluatorError(f"task `{name}` has no metric `{wanted}`. It has: {', '.join(ways)}{hint}")
    if wanted is None and not averaged:
        raise EvaluatorError(
            f"task `{name}` has no metric that is a mean over examples. "
            f"It has: {', '.join(ways) or 'no metric at all'}."
        )
    metric = wanted if wanted is not None else averaged[0]
    if metric not in averaged:
        raise EvaluatorError(
            f"metric `{metric}` of task `{name}` is not a mean over examples, as every score here is. {offer}"
        )
    higher = task.higher_is_better().get(metric)
    if higher is None:
        raise EvaluatorError(
            f"task `{name}` does not say whether a higher `{metric}` is better. "
            "Add `higher_is_better: true` or `false` to this metric in the task's file."
        )
    return metric, bool(higher)


def _filter(task: Any, name: str, wanted: str | None) -> Any:
    filters = {one.name: one for one in task._filters}
    if wanted is None:
        return task._filters[0]
    if wanted not in filters:
        raise EvaluatorError(f"task `{name}` has no filter `{wanted}`. It has: {', '.join(filters)}.")
    return filters[wanted]


def _shots(task: Any, name: str, wanted: int | None) -> int:
    own = task.config.num_fewshot
    if wanted is None:
        return int(own or 0)
    if own == 0 and wanted > 0:
        raise EvaluatorError(
            f"task `{name}` fixes `num_fewshot: 0` in its file, but asked is `fewshot: {wanted}`. "
            "Leave `fewshot` out, or change the task's file."
        )
    task.set_config(key="num_fewshot", value=wanted)
    return wanted


def documents_of(asked: Asked) -> dict[Origin, list[Document]]:
    """The task's documents that may be scored: never those its few-shot examples are taken from."""
    task, name, config = asked.lm_task, asked.about.name, asked.lm_task.config
    shown = shown_from(task) if asked.shots else None
    wanted: dict[Origin, str | None] = {"validation": config.validation_split, "test": config.test_split}
    if wanted["validation"] == wanted["test"]:
        wanted["validation"] = None
    kept = {origin: split for origin, split in wanted.items() if split is not None and split != shown}
    if not kept:
        raise EvaluatorError(
            f"task `{name}` takes its {asked.shots} few-shot examples from `{shown}`, the only documents "
            "it could be scored on. Give it a `fewshot_split` of its own, or set `fewshot: 0`."
        )
    documents: dict[Origin, list[Document]] = {}
    for origin in kept:
        documents[origin] = list(task.validation_docs() if origin == "validation" else task.test_docs())
    return {origin: rows for origin, rows in documents.items() if rows}


def shown_from(task: Any) -> str | None:
    """The data split few-shot examples come from (`Task.fewshot_docs`); None if the file spells them out."""
    if task.fewshot_cfg.split is not None:
        return str(task.fewshot_cfg.split)
    if task.fewshot_cfg.samples is not None:
        return None
    config = task.config
    return config.training_split or config.validation_split or config.test_split  # type: ignore[no-any-return]


def never_shown(task: Any, document: Document) -> Document | None:
    """The document lm-eval keeps out of its own prompt (`ConfigurableTask.fewshot_context`)."""
    return document if task.fewshot_cfg.split == task.config.test_split else None


def delimiter_of(task: Any, chat: bool) -> str:
    """What stands between question and answer (`ConfigurableTask.construct_requests`, multiple choice)."""
    prefix = task.config.gen_prefix
    if chat and not (prefix and not prefix[-1].isspace()):
        return ""
    return str(task.config.target_delimiter)


def gold_text(task: Any, document: Document) -> str:
    """The answer a generation is compared with; the first one where several are accepted."""
    gold = task.doc_to_target(document)
    if task.config.doc_to_choice is not None:
        return str(task.doc_to_choice(document)[gold])
    return str(gold[0]) if isinstance(gold, list) else str(gold)


def gold_choices(item: Item) -> tuple[int, ...]:
    """The indices of the gold choices (`ConfigurableTask.process_results`, multiple choice)."""
    task, choices = item.asked.lm_task, item.choices
    gold = task.doc_to_text(item.document) if task.multiple_input else task.doc_to_target(item.document)
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else gold
    among = [index for index in (gold if isinstance(gold, list) else [gold]) if isinstance(index, int)]
    valid = tuple(index for index in among if 0 <= index < len(choices))
    if not valid:
        raise EvaluatorError(
            f"the gold answer of `{item.example.id}` is {gold!r}, none of its {len(choices)} choices. "
            "Where a benchmark hides its test answers, name only its validation split in the task's file."
        )
    return valid


def check_room(asked: Asked, room: int) -> None:
    """lm-eval asserts this in the middle of a run. `room` is the model's window in tokens."""
    if asked.kind == "generate_until":
        tokens = normalize_gen_kwargs(dict(asked.lm_task.config.generation_kwargs), DEFAULT_ANSWER)["max_gen_toks"]
        if tokens >= room:
            raise EvaluatorError(
                f"task `{asked.about.name}` may generate {tokens} tokens, but the model's whole window has "
                f"{room}. Set a smaller `max_gen_toks` in the task's `generation_kwargs`."
            )
