"""Keys and values of the texts being written: one slot a text, at the length it has."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache


class Slots(Cache):
    """A cache for transformers models in which every row has a length of its own.

    A prefill's keys and values are first `captured` as they come, then `admit`ted to slots. A step writes one token per
    row at its own position and attends to the slots of the rows in use, which are always the first ones. What stands in
    a slot beyond its length is never seen: the mask hides it, and the next token written there replaces it.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        """`slots` texts of at most `capacity` tokens each."""
        super().__init__(layers=[])
        self._shape = (slots, capacity)
        self._stores: dict[int, tuple[Tensor, Tensor]] = {}
        self._captured: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows: Tensor | None = None
        self._lengths: Tensor | None = None
        self._width = 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """What a layer attends to, given its new keys and values, each [rows, heads, tokens, head size]."""
        if self._rows is None:
            self._captured[layer_idx] = (key_states, value_states)
            return key_states, value_states
        seen = []
        for store, fresh in zip(self._stores[layer_idx], (key_states, value_states), strict=True):
            store[self._rows, :, self._lengths] = fresh[:, :, 0]
            seen.append(store[: len(self._rows), :, : self._width])
        return seen[0], seen[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """0: positions are always given."""
        return 0

    def prefill(self) -> None:
        """Capture what the next forward pass gives."""
        self._captured, self._rows = {}, None

    def step(self, lengths: Tensor, width: int) -> None:
        """The next forward pass writes one token into each of the first slots, at `lengths` (int64 [rows])."""
        self._rows, self._lengths, self._width = torch.arange(len(lengths), device=lengths.device), lengths, width

    def admit(self, slots: Tensor, rows: Tensor, paths: Tensor) -> None:
        """Copy captured tokens into slots: text i comes from row `rows[i]`, its tokens from the places `paths[i]`.

        `paths` is int64 [texts, length]; shorter texts end in any places, nobody sees them.
        """
        for layer, parts in self._captured.items():
            if layer not in self._stores:
                self._stores[layer] = tuple(self._empty(part) for part in parts)  # type: ignore[assignment]
            for store, part in zip(self._stores[layer], parts, strict=True):
                # the advanced indices are apart, so their axes come first: [texts, length, heads, size]
                store[slots, :, : paths.shape[1]] = part[rows[:, None], :, paths].transpose(1, 2)
        self._captured = {}

    def move(self, sources: Tensor, targets: Tensor, width: int) -> None:
        """Copy the first `width` tokens of some slots to others."""
        for stores in self._stores.values():
            for store in stores:
                store[targets, :, :width] = store[sources, :, :width]

    def _empty(self, like: Tensor) -> Tensor:
        slots, capacity = self._shape
        return like.new_zeros((slots, like.shape[1], capacity, like.shape[3]))


def bytes_per_token(model_config: Any, itemsize: int) -> int:
    """The size of one token's keys and values over all layers, from the model's config."""
    config = model_config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * itemsize)
