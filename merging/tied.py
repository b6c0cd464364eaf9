"""Tell whether a checkpoint's head is its embeddings stored a second time."""

import re
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError

if TYPE_CHECKING:
    from merging.checkpoint import Checkpoint

_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output|predictions\.decoder|vocab_projector)\.weight$")
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|embeddings|shared)\.weight$"
)


def tied_head(checkpoint: "Checkpoint") -> str | None:
    """The name of a head that is a second copy of the embeddings, None where there is no such tensor.

    Where the config does not say (`tie_word_embeddings` may be the architecture's default), equal bytes
    decide. Raises `CheckpointError` where the config ties head and embeddings but the file holds two
    different tensors: only one of them would survive loading.
    """
    tied = _says_tied(checkpoint.config)
    if tied is False:
        return None
    heads = [name for name in checkpoint.names if _HEAD.search(name)]
    embeddings = [name for name in checkpoint.names if _EMBEDDING.search(name)]
    pairs = [
        (head, embedding)
        for head in heads
        for embedding in embeddings
        if checkpoint.shapes[head] == checkpoint.shapes[embedding]
    ]
    for head, embedding in pairs:
        if _same_bytes(checkpoint, head, embedding):
            return head
    if tied and pairs:
        head, embedding = pairs[0]
        raise CheckpointError(
            f"{checkpoint.folder}: config.json ties head and embeddings, but `{head}` and `{embedding}` "
            "differ; set `tie_word_embeddings` to false if the head was trained on its own, or remove it."
        )
    return None


def embeddings_for(checkpoint: "Checkpoint", head: str) -> str | None:
    """The embeddings that a model without a tensor `head` uses in its place; None where it has no such thing."""
    if _HEAD.search(head) is None or _says_tied(checkpoint.config) is False:
        return None
    return next((name for name in checkpoint.names if _EMBEDDING.search(name)), None)


def is_by_token(name: str) -> bool:
    """Whether a tensor has one row for each token: input embeddings, a head over the vocabulary, or its bias."""
    weight = re.sub(r"(?:\.decoder)?\.bias$", ".decoder.weight" if "predictions" in name else ".weight", name)
    return bool(_EMBEDDING.search(name) or _HEAD.search(weight))


def _says_tied(config: dict[str, Any]) -> bool | None:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and isinstance(part.get("tie_word_embeddings"), bool):
            return bool(part["tie_word_embeddings"])
    return None


def _same_bytes(checkpoint: "Checkpoint", one: str, other: str) -> bool:
    import torch

    if checkpoint.dtypes[one] != checkpoint.dtypes[other]:
        return False
    first, second = checkpoint.tensor(one), checkpoint.tensor(other)
    return torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8))
