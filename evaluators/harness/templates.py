"""Render prompts: lm-eval's Jinja templates in a sandbox, and conversations through a tokenizer."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lm_eval.utils
from jinja2 import BaseLoader, StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.models.huggingface import HFLM

from evaluators.protocol import EvaluatorError


def guard_templates() -> None:
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


def chat_renderer(tokenizer: Any) -> Callable[..., str]:
    """lm-eval's own rendering of a conversation, which needs the tokenizer but not the model."""
    if getattr(tokenizer, "chat_template", None) is None:
        raise EvaluatorError(
            "`chat_template: true` needs a tokenizer with a chat template, but this one has none. "
            "Set `chat_template: false`, or add the template to the base model's tokenizer files."
        )
    holder = SimpleNamespace(tokenizer=tokenizer, chat_template_args={})
    return functools.partial(HFLM.apply_chat_template, holder)
