"""The floor: the forward passes of a trial and nothing else, over batches that were packed before the clock starts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from evaluators.lm import forward
from evaluators.lm.slots import Slots

Pass = Callable[[], Any]


@contextmanager
def recorded(passes: list[Pass]) -> Iterator[None]:
    """Inside, keep every call of a model's body and of its head, with its inputs as they were, to be made again.

    The body is called as transformers models are (tokens, positions, mask, cache); the head is one matrix product.
    Masks are kept ready-made, and of a text only the keys and values that its steps attend to.
    """
    original = forward.Forward
    body_of, head_of = original._run_body, original._head

    def run_body(self: Any, **inputs: Any) -> Any:
        output = body_of(self, **inputs)
        cache = inputs.get("past_key_values")
        state = (cache._rows, cache._lengths, cache._width) if isinstance(cache, Slots) else None
        passes.append(lambda: _again(self, body_of, inputs, state))
        return output

    def head(self: Any, hidden: Tensor) -> Tensor:
        weight = self.model.get_output_embeddings().weight
        passes.append(lambda: torch.nn.functional.linear(hidden, weight))
        return head_of(self, hidden)

    original._run_body, original._head = run_body, head  # type: ignore[method-assign]
    try:
        yield
    finally:
        original._run_body, original._head = body_of, head_of  # type: ignore[method-assign]


def _again(self: Any, body_of: Callable[..., Any], inputs: dict[str, Any], state: Any) -> None:
    if state is not None:
        cache = inputs["past_key_values"]
        cache._rows, cache._lengths, cache._width = state
    body_of(self, **inputs)


@torch.no_grad()
def run(passes: list[Pass]) -> None:
    """All passes, one after the other."""
    for one in passes:
        one()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
