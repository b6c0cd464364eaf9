"""Score a resident model with lm-eval: tasks prepared once, any of their examples scored at any time.

This is lm-eval's only home. `lm_eval.evaluator.evaluate` is followed step by step (requests, repeats,
filters, one `process_results` per example), without what it repeats on every call: loading tasks, building
requests, tokenizing.

What runs from a task file: its Jinja templates, which lm-eval does not sandbox and this module does (see
`_guard_templates`); and Python it names with `!function`, which is refused outside lm-eval's own package
unless `allow_code` is set.
"""

import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval.utils
import torch
from jinja2 import BaseLoader, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.api.metrics import mean
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import metric_registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from torch import Tensor, nn

from evaluators.choices import comparable, gold_loglikelihood, gold_probability
from evaluators.protocol import SPLITS, EvaluatorError, Example, Outcome, ScoringError, Task
from evaluators.spec import Limits, LmEvalSpec, LmEvalTask, Splits
from evaluators.splits import Counts, Document, Origin, Placed, assign
from evaluators.task_files import code_references, unreadable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""

# A request as `HFLM._loglikelihood_tokens` takes it: both strings, the context's tokens, the continuation's.
Encoded = tuple[tuple[str, str], list[int], list[int]]

OUTPUT_TYPES = ("multiple_choice", "generate_until", "loglikelihood")
SHIPPED = Path(lm_eval.__file__).resolve().parent


@dataclass(frozen=True)
class _Asked:
    """A leaf task as lm-eval built it, with what this evaluator reads from it."""

    lm_task: Any
    about: Task
    filter: Any
    shots: int

    @property
    def kind(self) -> str:
        return str(self.lm_task.OUTPUT_TYPE)


@dataclass
class _Item:
    """One example, ready to be asked: lm-eval's requests and the gold answer.

    `pairs` are the (context, continuation) strings whose log-likelihood is wanted. `gold` are the indices
    of the gold choices among `choices`, for multiple choice.
    """

    example: Example
    asked: _Asked
    document: Document
    instances: list[Any]
    pairs: list[tuple[str, str]]
    choices: list[str] = field(default_factory=list)
    gold: tuple[int, ...] = ()
    encoded: list[Encoded] = field(default_factory=list)


class HarnessEvaluator:
    """lm-eval tasks as an `Evaluator`.

    `tokenizer` is a transformers tokenizer. The model comes with each call of `score` and decides the
    device; its weights may change in place between calls, so nothing that depends on them is kept.
    `progress` is called while examples are prepared and while they are scored. `allow_code` lets task files
    run Python (`!function`, metrics fetched from the Hub, code benchmarks): set it only for task files you
    trust.

    Raises `EvaluatorError` where a task cannot be scored example by example; see each refusal's message.
    """

    def __init__(
        self,
        spec: LmEvalSpec,
        splits: Splits,
        tokenizer: Any,
        *,
        allow_code: bool = False,
        progress: Progress | None = None,
    ) -> None:
        _guard_templates()
        self._spec = spec
        self._tokenizer = tokenizer
        self._progress = progress or (lambda _doing, _done, _total: None)
        self._chat = _chat_renderer(tokenizer) if spec.chat_template else None
        self._tokens: dict[str, list[int]] = {}
        self._lm: _ResidentLM | None = None
        self._counts: dict[str, Counts] = {}
        self._items: dict[str, _Item] = {}
        self._asked = _load(spec, allow_code)
        limits = [entry.limit for entry, leaves in self._asked for _ in leaves]
        for asked, limit in zip(self._leaves(), limits, strict=True):
            self._prepare(asked, splits, limit)

    def _leaves(self) -> list[_Asked]:
        return [asked for _, leaves in self._asked for asked in leaves]

    def tasks(self) -> list[Task]:
        """The leaf tasks, in the order of the spec; the members of a group in lm-eval's order."""
        return [asked.about for asked in self._leaves()]

    def examples(self) -> list[Example]:
        """Every example that can be scored: by task in the order of `tasks`, then by split, then by id."""
        return [item.example for item in self._items.values()]

    def counts(self) -> dict[str, Counts]:
        """For each task, how many documents each split got and how many were left out."""
        return dict(self._counts)

    def score(self, model: nn.Module, ids: Sequence[str]) -> list[Outcome]:
        """One outcome per id, in the order of `ids`.

        The model is used in eval mode and without gradients; its modes are put back afterwards. Batches are
        made from the examples in one fixed order, so the order of `ids` changes nothing. Raises
        `ScoringError` where a log-likelihood, a logit or a metric is not finite, and `EvaluatorError` for
        an id that is not an example.
        """
        items = self._wanted(ids)
        with _evaluating(model), torch.no_grad():
            lm = self._resident(model)
            loglikelihoods = self._loglikelihoods(lm, items)
            texts = self._texts(lm, items)
        outcomes: dict[str, Outcome] = {}
        for asked in self._leaves():
            mine = [item for item in items if item.asked is asked]
            for item in mine:
                _answer(item, loglikelihoods[item.example.id], texts.get(item.example.id))
            for item, results in zip(mine, _filtered(asked, mine), strict=True):
                outcomes[item.example.id] = _outcome(item, results, loglikelihoods[item.example.id])
        return [outcomes[name] for name in ids]

    # ---- preparing

    def _prepare(self, asked: _Asked, splits: Splits, limit: Limits | None) -> None:
        """Split a task's documents and build the requests of those that were chosen."""
        documents = _documents(asked)
        placed, counts = assign(asked.about.name, documents.get("validation"), documents.get("test"), splits, limit)
        self._counts[asked.about.name] = counts
        for split in SPLITS:
            if not any(row.split == split for row in placed):
                raise EvaluatorError(
                    f"every split needs an example of every task, but `{asked.about.name}` has none for "
                    f"`{split}` ({counts}). Give the task more documents, or `{split}` a larger share."
                )
        prepared: dict[tuple[Origin, int], _Item] = {}
        for origin, rows in documents.items():
            chosen = {row.position: row for row in placed if row.origin == origin}
            for position, item in self._build(asked, rows, chosen, len(placed), len(prepared)):
                prepared[origin, position] = item
        self._items.update({row.id: prepared[row.origin, row.position] for row in placed})
        _probe(self._items[placed[0].id])

    def _build(
        self, asked: _Asked, documents: list[Document], chosen: Mapping[int, Placed], total: int, done: int
    ) -> Iterator[tuple[int, _Item]]:
        """The chosen documents' requests, with the few-shot examples of an lm-eval run over all documents."""
        task = asked.lm_task
        task.set_fewshot_seed(self._spec.fewshot_seed)
        for position, document in enumerate(documents):
            place = chosen.get(position)
            if place is None:
                if asked.shots:  # the sampler is one stream: a document left out takes its draw all the same
                    task.sampler.sample(n=asked.shots, eval_doc=_never_shown(task, document))
                continue
            done += 1
            self._progress(f"preparing {asked.about.name}", done, total)
            yield position, self._item(asked, document, place)

    def _item(self, asked: _Asked, document: Document, place: Placed) -> _Item:
        task = asked.lm_task
        context = task.fewshot_context(
            document,
            num_fewshot=asked.shots,
            system_instruction=self._spec.system_instruction,
            apply_chat_template=self._chat is not None,
            fewshot_as_multiturn=self._chat is not None,
            chat_template=self._chat,
            gen_prefix=task.doc_to_prefix(document),
        )
        built = task.construct_requests(
            doc=document,
            ctx=context,
            metadata=(asked.about.name, place.position, task.config.repeats),
            apply_chat_template=self._chat is not None,
            chat_template=self._chat,
        )
        instances = built if isinstance(built, list) else [built]
        example = Example(place.id, asked.about.name, place.split)
        item = _Item(example, asked, document, instances, [])
        if asked.kind == "generate_until":
            if self._spec.gold_likelihood:
                item.pairs = [(context, _delimiter(task, self._chat is not None) + _gold_text(task, document))]
        else:
            item.pairs = [instance.args for instance in instances]
        if asked.kind == "multiple_choice":
            item.choices = task.doc_to_choice(document)
            item.gold = _gold_choices(item)
        return item

    # ---- asking the model

    def _wanted(self, ids: Sequence[str]) -> list[_Item]:
        """The items of `ids`, each once, in the evaluator's own order."""
        asked_for = dict.fromkeys(ids)
        unknown = [name for name in asked_for if name not in self._items]
        if unknown:
            near = get_close_matches(unknown[0], self._items, n=3)
            raise EvaluatorError(
                f"`{unknown[0]}` is not one of the {len(self._items)} examples of {', '.join(self._counts)}"
                + (f"; nearest: {', '.join(near)}." if near else ". Were the task's documents changed?")
            )
        return [item for name, item in self._items.items() if name in asked_for]

    def _resident(self, model: nn.Module) -> "_ResidentLM":
        """The lm-eval view of this model object, made when it is first met."""
        if self._lm is None or self._lm.model is not model:
            lm = _ResidentLM(model, self._tokenizer, self._spec.batch_size, self._tokens)
            if lm.backend != "causal":
                raise EvaluatorError(f"only decoder-only models can be scored, but this one is {lm.backend}.")
            for asked in self._leaves():
                _check_room(asked, lm)
            self._lm = lm
        return self._lm

    def _loglikelihoods(self, lm: "_ResidentLM", items: list[_Item]) -> dict[str, list[tuple[float, bool]]]:
        """(log-likelihood in nats, is it the greedy answer) for every pair of every item."""
        for item in items:
            if item.pairs and not item.encoded:
                item.encoded = lm.encode(item.pairs)
                if not all(continuation for _, _, continuation in item.encoded):
                    raise EvaluatorError(
                        f"example `{item.example.id}` has an answer without a single token: {item.pairs}."
                    )
        requests = [encoded for item in items for encoded in item.encoded]
        lm.watch(functools.partial(self._progress, "scoring log-likelihoods"), len(requests), {})
        answers = iter(lm._loglikelihood_tokens(requests, disable_tqdm=True) if requests else [])
        found = {item.example.id: [next(answers) for _ in item.encoded] for item in items}
        for name, rows in found.items():
            for value, _ in rows:
                if not math.isfinite(value):
                    raise ScoringError(f"log-likelihood of example `{name}` is {value}; the weights are broken.")
        return found

    def _texts(self, lm: "_ResidentLM", items: list[_Item]) -> dict[str, str]:
        """The model's answer to every item that asks for text."""
        asking = [item for item in items if item.asked.kind == "generate_until"]
        if not asking:
            return {}
        contexts = {item.instances[0].args[0]: item.example.id for item in asking}
        lm.keep(list(contexts))
        lm.watch(functools.partial(self._progress, "generating"), len(asking), contexts)
        texts = lm.generate_until([item.instances[0] for item in asking], disable_tqdm=True)
        return {item.example.id: text for item, text in zip(asking, texts, strict=True)}


# ---- the model


class _ResidentLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model around a model that stays, with the tokens of known prompts kept.

    Tokens are all that is kept: the weights change in place between calls.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, batch_size: int, tokens: dict[str, list[int]]) -> None:
        self._tokens = tokens
        self.watch(lambda _done, _total: None, 0, {})
        with _quiet("lm_eval.models.huggingface"):  # it warns that the model is not a string
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self._max_length = self.max_length  # lm-eval looks it up in the config three times for every request

    def watch(self, progress: Callable[[int, int], None], total: int, contexts: Mapping[str, str]) -> None:
        """Report the next requests to `progress`; `contexts` maps prompts to example ids, for messages."""
        self._report, self._total, self._done = progress, total, 0
        self._contexts, self._batch = contexts, list[str]()

    def _advance(self, count: int) -> None:
        self._done = min(self._total, self._done + count)
        self._report(self._done, self._total)

    def keep(self, strings: Sequence[str]) -> None:
        """Tokenize these strings once for all calls."""
        for string in strings:
            if string not in self._tokens:
                self._tokens[string] = super().tok_encode(string)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        if add_special_tokens is None and not options and string in self._tokens:
            return self._tokens[string]
        tokens: list[int] = super().tok_encode(string, add_special_tokens, **options)
        return tokens

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
        """Tokenize (context, continuation) pairs as lm-eval does, without asking the model."""
        # `TemplateLM.loglikelihood` encodes, then asks `_loglikelihood_tokens`, which here returns its input.
        stand_in = SimpleNamespace(
            tok_encode=self.tok_encode,
            prefix_token_id=self.prefix_token_id,
            _encode_pair=self._encode_pair,
            _loglikelihood_tokens=lambda requests, **_: requests,
        )
        self.keep([context.rstrip() for context, _ in pairs if context])  # trailing spaces go to the continuation
        requests = [SimpleNamespace(args=pair) for pair in pairs]
        encoded: list[Encoded] = TemplateLM.loglikelihood(stand_in, requests, disable_tqdm=True)
        return encoded

    def tok_batch_encode(self, strings: list[str], *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        self._batch = list(strings)
        encoded: tuple[Tensor, Tensor] = super().tok_batch_encode(strings, *args, **options)
        return encoded

    def _model_call(self, inps: Tensor, *args: Any, **options: Any) -> Tensor:
        logits: Tensor = super()._model_call(inps, *args, **options)
        self._advance(len(inps))
        return logits

    def _model_generate(self, context: Tensor, *args: Any, **options: Any) -> Tensor:
        """Generate, then raise `ScoringError` if any step's logits of a row had no finite maximum.

        A model of NaNs generates without complaint: argmax of NaNs is a token, and an answer is merely wrong.
        """
        broken = torch.zeros(len(context), dtype=torch.bool, device=context.device)

        def look(_module: nn.Module, _args: Any, output: Any) -> None:
            nonlocal broken
            rows = ~torch.isfinite(output.logits[:, -1].amax(dim=-1))  # amax keeps NaN; a masked -inf is no harm
            broken = broken | rows.view(len(broken), -1).any(dim=1)

        handle = self.model.register_forward_hook(look)
        try:
            tokens: Tensor = super()._model_generate(context, *args, **options)
        finally:
            handle.remove()
        rows = broken.nonzero().flatten().tolist()
        if rows:
            names = [self._contexts.get(self._batch[row], "unknown") for row in rows]
            raise ScoringError(
                f"logits are not finite while generating for {len(rows)} of a batch of {len(broken)} "
                f"examples, the first of them `{names[0]}`; the weights are broken."
            )
        self._advance(len(context))
        return tokens


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode again afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# ---- loading tasks


def _guard_templates() -> None:
    """Make lm-eval compile each Jinja template once, and in a sandbox.

    This is the one place where lm-eval itself is changed, for the whole process. It compiles a template
    again for every document and every field (about half the time of a small evaluation), and in an open
    environment, where a task file's template can run Python. The sandbox has the same filters and settings,
    so honest templates give the same text; one that reaches for Python's insides raises `SecurityError`.
    """
    plain = lm_eval.utils.env
    if isinstance(plain, _Templates):
        return
    sandbox = _Templates(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    sandbox.filters.update(plain.filters)
    lm_eval.utils.env = sandbox


class _Templates(SandboxedEnvironment):
    """Jinja in a sandbox, with every template it has compiled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._compiled: dict[str, Template] = {}

    def from_string(self, source: Any, globals: Any = None, template_class: Any = None) -> Template:
        if globals is not None or template_class is not None or not isinstance(source, str):
            return super().from_string(source, globals, template_class)
        if source not in self._compiled:
            self._compiled[source] = super().from_string(source)
        return self._compiled[source]


def _chat_renderer(tokenizer: Any) -> Callable[..., str]:
    """lm-eval's own rendering of a conversation, which needs the tokenizer but not the model."""
    if getattr(tokenizer, "chat_template", None) is None:
        raise EvaluatorError(
            "`chat_template: true` needs a tokenizer with a chat template, but this one has none. "
            "Set `chat_template: false`, or add the template to the base model's tokenizer files."
        )
    holder = SimpleNamespace(tokenizer=tokenizer, chat_template_args={})
    return functools.partial(HFLM.apply_chat_template, holder)


def _load(spec: LmEvalSpec, allow_code: bool) -> list[tuple[LmEvalTask, list[_Asked]]]:
    """The spec's entries, each with its leaf tasks."""
    manager = _manager(spec)
    loaded: list[tuple[LmEvalTask, list[_Asked]]] = []
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
        loaded.append((entry, [_asked(task, entry, len(leaves)) for task in leaves.values()]))
    return loaded


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


# ---- reading a task


def _asked(task: Any, entry: LmEvalTask, shared: int) -> _Asked:
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
        _refuse_sampling(name, task.config.generation_kwargs)
    metric, higher_is_better = _metric(task, name, entry.metric)
    about = Task(name, metric, higher_is_better, entry.weight / shared, entry.objective)
    return _Asked(task, about, _filter(task, name, entry.filter), _shots(task, name, entry.fewshot))


def _refuse_sampling(name: str, options: Mapping[str, Any]) -> None:
    if normalize_gen_kwargs(dict(options)).get("do_sample"):
        raise EvaluatorError(
            f"task `{name}` draws its answers at random (`generation_kwargs`: {dict(options)}), so a merge "
            "would get another score each time. Set `do_sample: false` and `temperature: 0`."
        )


def _metric(task: Any, name: str, wanted: str | None) -> tuple[str, bool]:
    """The metric's name and whether higher is better."""
    ways: dict[str, Any] = task.aggregation()
    averaged = [metric for metric, way in ways.items() if way is mean]
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


def _documents(asked: _Asked) -> dict[Origin, list[Document]]:
    """The task's documents that may be scored: never those its few-shot examples are taken from."""
    task, name, config = asked.lm_task, asked.about.name, asked.lm_task.config
    shown = _shown_from(task) if asked.shots else None
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


def _shown_from(task: Any) -> str | None:
    """The data split few-shot examples come from (`Task.fewshot_docs`); None if the file spells them out."""
    if task.fewshot_cfg.split is not None:
        return str(task.fewshot_cfg.split)
    if task.fewshot_cfg.samples is not None:
        return None
    config = task.config
    return config.training_split or config.validation_split or config.test_split  # type: ignore[no-any-return]


def _never_shown(task: Any, document: Document) -> Document | None:
    """The document lm-eval keeps out of its own prompt (`ConfigurableTask.fewshot_context`)."""
    return document if task.fewshot_cfg.split == task.config.test_split else None


def _delimiter(task: Any, chat: bool) -> str:
    """What stands between question and answer (`ConfigurableTask.construct_requests`, multiple choice)."""
    prefix = task.config.gen_prefix
    if chat and not (prefix and not prefix[-1].isspace()):
        return ""
    return str(task.config.target_delimiter)


def _gold_text(task: Any, document: Document) -> str:
    """The answer a generation is compared with; the first one where several are accepted."""
    gold = task.doc_to_target(document)
    if task.config.doc_to_choice is not None:
        return str(task.doc_to_choice(document)[gold])
    return str(gold[0]) if isinstance(gold, list) else str(gold)


def _gold_choices(item: _Item) -> tuple[int, ...]:
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


def _check_room(asked: _Asked, lm: _ResidentLM) -> None:
    """lm-eval asserts this in the middle of a run."""
    if asked.kind == "generate_until":
        tokens = normalize_gen_kwargs(dict(asked.lm_task.config.generation_kwargs), lm.max_gen_toks)["max_gen_toks"]
        if tokens >= lm.max_length:
            raise EvaluatorError(
                f"task `{asked.about.name}` may generate {tokens} tokens, but the model's whole window has "
                f"{lm.max_length}. Set a smaller `max_gen_toks` in the task's `generation_kwargs`."
            )


# ---- reading answers


def _answer(item: _Item, loglikelihoods: Sequence[tuple[float, bool]], text: str | None) -> None:
    """Hand the model's answers to lm-eval's request objects.

    A task with `repeats` asks each question several times; the answers are greedy, so they are the same
    each time.
    """
    answers = [text] if item.asked.kind == "generate_until" else list(loglikelihoods)
    for instance, answer in zip(item.instances, answers, strict=True):
        instance.resps = [answer] * (instance.repeats or 1)
        instance.filtered_resps = {}


def _filtered(asked: _Asked, items: Sequence[_Item]) -> list[Mapping[str, Any]]:
    """lm-eval's metrics for each item, after the chosen filter."""
    instances = [instance for item in items for instance in item.instances]
    if not instances:
        return []
    asked.filter.apply(instances)
    key = asked.filter.name
    return [
        asked.lm_task.process_results(item.document, [one.filtered_resps[key] for one in item.instances])
        for item in items
    ]


def _outcome(item: _Item, results: Mapping[str, Any], loglikelihoods: Sequence[tuple[float, bool]]) -> Outcome:
    values = [value for value, _ in loglikelihoods]
    metric = item.asked.about.metric
    if metric not in results:
        raise ScoringError(f"example `{item.example.id}` got no `{metric}` from its task, only {', '.join(results)}.")
    number = float(results[metric])
    if not math.isfinite(number):
        raise ScoringError(f"`{metric}` of example `{item.example.id}` is {number}.")
    if not values:
        return Outcome(item.example.id, number)
    if item.asked.kind == "multiple_choice":
        smooth = gold_probability(comparable(metric, values, item.choices), item.gold)
        return Outcome(item.example.id, number, smooth, gold_loglikelihood(values, item.gold))
    return Outcome(item.example.id, number, min(1.0, math.exp(values[0])), values[0])


def _probe(item: _Item) -> None:
    """Read one made-up answer, so that a metric that cannot be computed is refused before the first trial."""
    if callable(item.asked.lm_task.config.process_results):
        return  # a task's own function may reject an answer no model gave
    answers = [(-1.0 - index, False) for index in range(len(item.instances))]
    try:
        _answer(item, answers, "")
        results = _filtered(item.asked, [item])[0]
        float(results[item.asked.about.metric])
    except Exception as error:
        raise EvaluatorError(
            f"metric `{item.asked.about.metric}` of task `{item.asked.about.name}` gives no number: "
            f"{type(error).__name__}: {error}"
        ) from error
