"""Texts as a classifier takes them: tokenized, and cut to its window."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from evaluators.lm.requests import Tokens
from evaluators.lm.window import window_of
from evaluators.protocol import EvaluatorError


class Text(NamedTuple):
    """What is classified: one text, or two that the tokenizer joins.

    `rendered` says that a chat template wrote it, which has put in the special tokens.
    """

    first: str
    second: str | None = None
    rendered: bool = False


class Encoded(NamedTuple):
    """A text's tokens, and which of two texts each is from, where the tokenizer says so."""

    ids: Tokens
    types: Tokens | None


class Encoder:
    """Tokens for one model; each text is tokenized once.

    Texts beyond the model's window lose their end, as transformers cuts them. A decoder reads its answer at the last
    token, so for decoders they lose their beginning. Special tokens stay.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        # its own, since whoever else uses the tokenizer is not to find it cutting texts
        self._tokenizer = copy.deepcopy(tokenizer)
        self._tokenizer.truncation_side = "left" if _is_decoder(model) else "right"
        self._room = _room(model, tokenizer)
        self._known: dict[Text, Encoded] = {}

    def encode(self, texts: Sequence[Text]) -> list[Encoded]:
        """Raises `EvaluatorError` for a text without tokens."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for paired in (False, True):
            for rendered in (False, True):
                alike = [one for one in new if (one.second is not None, one.rendered) == (paired, rendered)]
                if alike:
                    self._known |= dict(zip(alike, self._encoded(alike, paired, rendered), strict=True))
        return [self._known[text] for text in texts]

    def _encoded(self, texts: Sequence[Text], paired: bool, rendered: bool) -> list[Encoded]:
        found = self._tokenizer(
            [text.first for text in texts],
            [text.second for text in texts] if paired else None,
            add_special_tokens=not rendered,
            truncation=True,
            max_length=self._room,
        )
        for text, ids in zip(texts, found["input_ids"], strict=True):
            if not ids:
                raise EvaluatorError(
                    f"a text must have a token, but the tokenizer makes none of {text.first!r}. Take it out."
                )
        types = found.get("token_type_ids") or [None] * len(texts)
        return [
            Encoded(tuple(ids), None if of is None else tuple(of))
            for ids, of in zip(found["input_ids"], types, strict=True)
        ]


def _is_decoder(model: nn.Module) -> bool:
    """Whether tokens see only what stands before them, told from what else transformers builds of the kind."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    config: Any = model.config
    kind = config.model_type
    encodes = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or getattr(config, "is_encoder_decoder", False)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not encodes


def _room(model: nn.Module, tokenizer: Any) -> int:
    """Tokens that the model takes; RoBERTa and its kin begin to count positions after their padding's."""
    rooms = [window_of(model, tokenizer), int(min(tokenizer.model_max_length, 1e6))]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            rooms.append(module.num_embeddings - module.padding_idx - 1)
    return min(rooms)
