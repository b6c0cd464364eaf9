"""How many tokens a model sees at once, and long texts cut to fit."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from evaluators.lm.requests import Continuation

_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length", "max_seq_len")
_DEFAULT = 2048
_LARGEST = 1_000_000  # tokenizers without a limit say 1e30


def window_of(model: nn.Module, tokenizer: Any) -> int:
    """The model's window in tokens: by its config, else by its tokenizer, else 2048."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in _NAMES:
        length = getattr(text, name, None)
        if isinstance(length, int) and length > 0:
            return length
    length = getattr(tokenizer, "model_max_length", None)
    return int(length) if length is not None and 0 < length < _LARGEST else _DEFAULT


def rolling(tokens: Sequence[int], prefix: int, room: int) -> list[Continuation]:
    """Windows of at most `room` tokens that follow each other, so that each token is predicted exactly once.

    The first window begins after `prefix`; the last one keeps as much context as fits, as in lm-eval.
    """
    windows = [Continuation((prefix,), tuple(tokens[:room]))] if tokens else []
    for start in range(room, len(tokens), room):
        end = min(start + room, len(tokens))
        windows.append(Continuation(tuple(tokens[end - room - 1 : start]), tuple(tokens[start:end])))
    return windows
