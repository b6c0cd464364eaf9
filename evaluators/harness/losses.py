"""The losses of lm-eval's tasks: which have one, and what it asks of the model."""

from collections.abc import Iterable, Mapping, Sequence

from evaluators.harness.answers import ROLLING
from evaluators.harness.items import Asked, Encoded, Item
from evaluators.harness.reading import delimiter_of, gold_text
from evaluators.harness.resident import ResidentLM
from evaluators.lm import Continuation
from evaluators.lm.differentiable import Part, among_choices, like_teacher, per_token, written
from evaluators.lm.requests import Tokens
from evaluators.lm.teacher import Distributions
from evaluators.protocol import EvaluatorError
from evaluators.twins import turned_away

_FALLING = ("brier_score", "perplexity", *ROLLING)  # lower-is-better metrics that fall as gold answers get likelier


def reason_against(asked: Asked, items: Iterable[Item], chat: bool) -> str | None:
    """Why a task has no differentiable twin, None where it has."""
    about = asked.about
    reason = turned_away(about)
    if reason is not None or about.teacher is not None:
        return reason
    if not about.higher_is_better and about.metric not in _FALLING:
        return f"`{about.name}` wants less of `{about.metric}`, which need not fall as its gold answer gets likelier"
    for item in items if asked.kind == "generate_until" else ():
        try:
            pair = gold_pair(item, chat)
        except Exception as error:  # a task that scores by a function of its own may have no answers written down
            return f"`{item.example.id}` has no gold answer that could be read ({type(error).__name__}: {error})"
        if not pair[1].strip():
            return f"`{item.example.id}` has an empty gold answer"
    return None


def gold_pair(item: Item, chat: bool) -> tuple[str, str]:
    """The question and the gold answer of a `generate_until` task, as one request."""
    task = item.asked.lm_task
    return str(item.instances[0].args[0]), delimiter_of(task, chat) + gold_text(task, item.document)


def parts_of(items: Sequence[Item], lm: ResidentLM, chat: bool, taught: Mapping[str, Distributions]) -> list[Part]:
    """What is asked of the model for the losses of these examples; `taught` is what teachers say, by example."""
    own = [item for item in items if item.asked.about.teacher is None]
    _encode_golden([item for item in own if item.asked.kind == "generate_until"], lm, chat)
    parts = [part for item in own for part in _parts(item)]
    for item in items:
        if item.asked.about.teacher is not None:
            name = item.example.id
            if name not in taught:
                raise EvaluatorError(f"what `{item.asked.about.teacher}` says on example `{name}` was never asked.")
            parts.append(like_teacher(name, prompt_of(item, lm), taught[name]))
    return parts


def prompt_of(item: Item, lm: ResidentLM) -> Tokens:
    """What is read before an answer."""
    return tuple(lm.tok_encode(str(item.instances[0].args[0]))) or (lm.prefix_token_id,)


def _parts(item: Item) -> list[Part]:
    name, asked = item.example.id, item.asked
    if asked.kind == "multiple_choice":
        return among_choices(name, _requests(item.encoded), asked.about.metric, item.choices, item.gold)
    requests = _requests(item.golden or item.encoded)
    if asked.kind == "generate_until":
        return written(name, requests[0])
    return per_token(name, requests)


def _requests(encoded: Iterable[Encoded]) -> list[Continuation]:
    return [Continuation(tuple(context), tuple(continuation)) for _, context, continuation in encoded]


def _encode_golden(items: Sequence[Item], lm: ResidentLM, chat: bool) -> None:
    fresh = [item for item in items if not item.golden]
    for item in fresh:
        item.golden = item.encoded or lm.encode([gold_pair(item, chat)])
        if not all(continuation for _, _, continuation in item.golden):
            raise EvaluatorError(f"example `{item.example.id}` has a gold answer without a single token.")
