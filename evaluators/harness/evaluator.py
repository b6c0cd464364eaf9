"""Score a resident model with lm-eval: tasks prepared once, any of their examples scored at any time.

`lm_eval.evaluator.evaluate` is followed step by step (requests, repeats, filters, one `process_results` per example),
without what it repeats on every call: loading tasks, building requests, tokenizing.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from evaluators.documents import check_every_split, pick
from evaluators.harness.answers import filtered_results, hand_over, probe, read_outcome
from evaluators.harness.gen_options import is_sampled
from evaluators.harness.items import Asked, Item
from evaluators.harness.loading import load_tasks, question_of, training_of
from evaluators.harness.losses import gold_pair, parts_of, prompt_of, reason_against
from evaluators.harness.reading import check_room, documents_of, gold_choices, never_shown
from evaluators.harness.resident import ResidentLM
from evaluators.harness.templates import chat_renderer, guard_templates
from evaluators.lm import window_of
from evaluators.lm.differentiable import DifferentiableLM
from evaluators.lm.teacher import Distributions, keep, recalled
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.meter import Meter
from evaluators.modes import evaluating
from evaluators.protocol import EvaluatorError, Example, Outcome, ScoringError, Task
from evaluators.shares import Limits, Splits
from evaluators.splits import Counts, Document, Origin, Placed, assign
from evaluators.twins import factors

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


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
        guard_templates()
        self._spec = spec
        self._tokenizer = tokenizer
        self._progress = progress or (lambda _doing, _done, _total: None)
        self._chat = chat_renderer(tokenizer) if spec.chat_template else None
        self._lm: ResidentLM | None = None
        self._differentiable: DifferentiableLM | None = None
        self._twins: dict[str, str | None] = {}
        self._taught: dict[str, Distributions] = {}
        self._counts: dict[str, Counts] = {}
        self._items: dict[str, Item] = {}
        self._asked = load_tasks(spec, allow_code)
        limits = [entry.limit for entry, leaves in self._asked for _ in leaves]
        for asked, limit in zip(self._leaves(), limits, strict=True):
            self._prepare(asked, splits, limit)

    def _leaves(self) -> list[Asked]:
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

    def check_model(self, model: nn.Module) -> None:
        """Raise `EvaluatorError` where a task may generate more than the model's window holds."""
        for asked in self._leaves():
            check_room(asked, window_of(model, self._tokenizer))

    def score(self, model: nn.Module, ids: Sequence[str], meter: Meter | None = None) -> list[Outcome]:
        """One outcome per id, in the order of `ids`; seconds and tokens are added to `meter`.

        The model is used in eval mode and without gradients; its modes are put back afterwards. Batches are
        made from the examples in one fixed order, so the order of `ids` changes nothing. Raises
        `ScoringError` where a log-likelihood, a logit or a metric is not finite, and `EvaluatorError` for
        an id that is not an example.
        """
        items = list(pick(self._items, ids).values())
        meter = meter or Meter()
        with evaluating(model), torch.no_grad():
            lm = self._resident(model)
            loglikelihoods = self._loglikelihoods(lm, items, meter)
            texts = self._texts(lm, items, meter)
        with meter.stage("metrics"):
            outcomes = self._outcomes(items, loglikelihoods, texts)
        return [outcomes[name] for name in ids]

    def twins(self) -> dict[str, str | None]:
        """See `Differentiable.twins`. Every gold answer is read once."""
        for asked in self._leaves():
            if asked.about.name not in self._twins:
                mine = (item for item in self._items.values() if item.asked is asked)
                self._twins[asked.about.name] = reason_against(asked, mine, self._chat is not None)
        return dict(self._twins)

    def backward(
        self, model: nn.Module, ids: Sequence[str], scales: Mapping[str, float], meter: Meter | None = None
    ) -> list[float]:
        """See `Differentiable.backward`.

        Multiple choice: minus the logarithm of the smooth score. Others: the negative log-likelihood of a token of the
        gold answer or of the text.
        """
        items = list(pick(self._items, ids).values())
        counted = factors(ids, scales, self.twins())
        lm = self._resident(model)
        parts = parts_of(items, lm, self._chat is not None, self._taught)
        losses = self._differentiated(model, lm).backward(parts, counted, meter or Meter())
        return [losses[name] for name in ids]

    def recall(self, model: nn.Module, ids: Sequence[str], key: str) -> list[str]:
        """See `Taught.recall`."""
        lm, missing = self._resident(model), []
        for name, item in pick(self._items, ids).items():
            if item.asked.about.teacher is not None and name not in self._taught:
                found = recalled(prompt_of(item, lm), key)
                if found is None:
                    missing.append(name)
                else:
                    self._taught[name] = found
        return missing

    def learn(self, model: nn.Module, ids: Sequence[str], key: str, meter: Meter | None = None) -> None:
        """See `Taught.learn`."""
        lm = self._resident(model)
        prompts = {name: prompt_of(item, lm) for name, item in pick(self._items, ids).items()}
        found = self._differentiated(model, lm).distributions(list(prompts.values()), meter or Meter())
        for (name, prompt), said in zip(prompts.items(), found, strict=True):
            keep(prompt, key, said)
            self._taught[name] = said

    def _differentiated(self, model: nn.Module, lm: ResidentLM) -> DifferentiableLM:
        if self._differentiable is None or self._differentiable.model is not model:
            self._differentiable = DifferentiableLM(model, lm.max_length, self._spec.batch_tokens)
        return self._differentiable

    def _outcomes(
        self,
        items: list[Item],
        loglikelihoods: Mapping[str, Sequence[tuple[float, bool]]],
        texts: Mapping[str, Sequence[str]],
    ) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for asked in self._leaves():
            mine = [item for item in items if item.asked is asked]
            for item in mine:
                hand_over(item, loglikelihoods[item.example.id], texts.get(item.example.id, ()))
            for item, results in zip(mine, filtered_results(asked, mine), strict=True):
                outcomes[item.example.id] = read_outcome(item, results, loglikelihoods[item.example.id])
        return outcomes

    # ---- preparing

    def _prepare(self, asked: Asked, splits: Splits, limit: Limits | None) -> None:
        """Split a task's documents and build the requests of those that were chosen."""
        documents = documents_of(asked)
        if splits.gradient > 0:
            documents |= training_of(asked)
        placed, counts = assign(
            asked.about.name,
            documents.get("validation"),
            documents.get("test"),
            splits,
            limit,
            documents.get("training"),
            question_of(asked),
        )
        self._counts[asked.about.name] = counts
        check_every_split(asked.about.name, placed, counts)
        prepared: dict[tuple[Origin, int], Item] = {}
        for origin, rows in documents.items():
            chosen = {row.position: row for row in placed if row.origin == origin}
            for position, item in self._build(asked, rows, chosen, len(placed), len(prepared)):
                prepared[origin, position] = item
        self._items.update({row.id: prepared[row.origin, row.position] for row in placed})
        probe(self._items[placed[0].id])

    def _build(
        self, asked: Asked, documents: list[Document], chosen: Mapping[int, Placed], total: int, done: int
    ) -> Iterator[tuple[int, Item]]:
        """The chosen documents' requests, with the few-shot examples of an lm-eval run over all documents."""
        task = asked.lm_task
        task.set_fewshot_seed(self._spec.fewshot_seed)
        for position, document in enumerate(documents):
            place = chosen.get(position)
            if place is None:
                if asked.shots:  # the sampler is one stream: a document left out takes its draw all the same
                    task.sampler.sample(n=asked.shots, eval_doc=never_shown(task, document))
                continue
            done += 1
            self._progress(f"preparing {asked.about.name}", done, total)
            yield position, self._checked_item(asked, document, place)

    def _checked_item(self, asked: Asked, document: Document, place: Placed) -> Item:
        """`_item`, with the example named where the task's templates do not fit the document."""
        try:
            return self._item(asked, document, place)
        except EvaluatorError:
            raise
        except Exception as error:  # lm-eval and Jinja each raise their own
            raise EvaluatorError(
                f"example `{place.id}` could not be prepared: {type(error).__name__}: {error}. "
                "Mend its document, or the template in the task's file that does not fit it."
            ) from error

    def _item(self, asked: Asked, document: Document, place: Placed) -> Item:
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
        item = Item(example, asked, document, instances, [])
        if asked.kind == "generate_until":
            if is_sampled(instances[0].args[1]):
                item.answers = instances[0].repeats or 1
            if self._spec.gold_likelihood:
                item.pairs = [gold_pair(item, self._chat is not None)]
        elif asked.kind != "loglikelihood_rolling":
            item.pairs = [instance.args for instance in instances]
        if asked.kind == "multiple_choice":
            item.choices = task.doc_to_choice(document)
            item.gold = gold_choices(item)
        return item

    # ---- asking the model

    def _resident(self, model: nn.Module) -> "ResidentLM":
        """The lm-eval view of this model object, made when it is first met."""
        if self._lm is None or self._lm.model is not model:
            lm = ResidentLM(model, self._tokenizer, self._spec.batch_tokens)
            if lm.backend != "causal":
                raise EvaluatorError(f"only decoder-only models can be scored, but this one is {lm.backend}.")
            for asked in self._leaves():
                check_room(asked, lm.max_length)
            self._encode(lm)
            self._lm = lm
        return self._lm

    def _encode(self, lm: "ResidentLM") -> None:
        """The tokens of every example of the job, read from disk where another process made them."""
        strings: list[str] = []
        for item in self._items.values():
            for context, continuation in item.pairs:  # trailing spaces go to the continuation
                strings += [context.rstrip(), context + continuation] if context else []
            if not item.pairs or item.asked.kind == "generate_until":
                strings.append(item.instances[0].args[0])
        lm.keep(strings)
        for item in self._items.values():
            rolling = item.asked.kind == "loglikelihood_rolling"
            item.encoded = lm.windows(item.instances[0].args[0]) if rolling else lm.encode(item.pairs)
            if not all(continuation for _, _, continuation in item.encoded) or (rolling and not item.encoded):
                raise EvaluatorError(f"example `{item.example.id}` has an answer without a single token: {item.pairs}.")

    def _loglikelihoods(self, lm: "ResidentLM", items: list[Item], meter: Meter) -> dict[str, list[tuple[float, bool]]]:
        """(log-likelihood in nats, is it the greedy answer) for every pair of every item, or for its whole text."""
        requests = [encoded for item in items for encoded in item.encoded]
        lm.watch(functools.partial(self._progress, "scoring log-likelihoods"), len(requests), {}, meter)
        answers = iter(lm._loglikelihood_tokens(requests))
        found = {item.example.id: [next(answers) for _ in item.encoded] for item in items}
        for name, rows in found.items():
            for value, _ in rows:
                if not math.isfinite(value):
                    raise ScoringError(f"log-likelihood of example `{name}` is {value}; the weights are broken.")
        return found

    def _texts(self, lm: "ResidentLM", items: list[Item], meter: Meter) -> dict[str, list[str]]:
        """The model's answers to every item that asks for text: one, or as many as a task that samples asks for."""
        asking = [item for item in items if item.asked.kind == "generate_until"]
        contexts = {item.instances[0].args[0]: item.example.id for item in asking}
        requests = [item.instances[0] for item in asking for _ in range(item.answers)]
        lm.watch(functools.partial(self._progress, "generating"), len(requests), contexts, meter)
        texts = iter(lm.generate_until(requests))
        return {item.example.id: [next(texts) for _ in range(item.answers)] for item in asking}
