"""The config.json of a merge whose layers, tokens or head are not those of the model it comes from."""

import copy
from typing import Any

from merging.checkpoint import Checkpoint
from merging.depth import set_layers
from merging.mergekit.plan import Plan


def config_json(
    donor: Checkpoint, plan: Plan, dtype: str | None, vocabulary: int | None, untied: bool
) -> dict[str, Any]:
    """The donor's config with the number of layers, what it lists by layer, `dtype`, `vocabulary` size and an own head.

    Raises `MergeError` where it does not say how many layers the model has.
    """
    config = copy.deepcopy(donor.config)
    if not config:
        return config
    if plan.sliced:
        for before, origins in plan.stacks.items():
            set_layers(config, before, origins)
    if dtype is not None:
        _set_dtype(config, dtype)
    text = config.get("text_config")
    parts = [config, *([text] if isinstance(text, dict) else [])]
    if vocabulary is not None:
        for part in [part for part in parts if "vocab_size" in part] or parts[:1]:
            part["vocab_size"] = vocabulary
    if untied:
        for part in parts:
            part["tie_word_embeddings"] = False
    return config


def _set_dtype(config: dict[str, Any], dtype: str) -> None:
    """Every mention of the weights' dtype: transformers loads the model in it."""
    for key, value in config.items():
        if key.endswith("_config") and isinstance(value, dict):
            _set_dtype(value, dtype)
    for name in [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]:
        config[name] = dtype
