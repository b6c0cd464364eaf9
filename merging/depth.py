"""A config.json whose model has other layers: how many there are, and what is listed for each of them."""

from collections.abc import Sequence
from typing import Any

from merging.checkpoint import Checkpoint
from merging.errors import MergeError

_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "depth",
    "num_decoder_layers",
    "decoder_layers",
    "num_encoder_layers",
    "encoder_layers",
)


def set_layers(config: dict[str, Any], before: str, origins: Sequence[tuple[Checkpoint, int]]) -> None:
    """Have a config, its own to write to, speak of other layers in one of its stacks.

    `before` is what stands in the stack's tensor names before the number of a layer; `origins` has the model and the
    layer that each new layer takes after, whose entries in lists by layer it gets. Raises `MergeError` where the config
    does not say how many layers the stack has.
    """
    where = _part(config, before)
    part = config if where is None else config[where]
    # what the donor's own stack has, whichever layers of it are used
    counts = [name for name in _names(before) if isinstance(part.get(name), int)]
    if not counts:
        raise MergeError(
            f"config.json must say how many layers `{before}` has, but has none of {', '.join(_names(before))}; the "
            "result could not be loaded."
        )
    old = part[counts[0]]
    for name, value in part.items():
        if isinstance(value, list) and len(value) == old and name not in ("architectures",):
            part[name] = [_listed(origin, where, name, layer) for origin, layer in origins]
    for name in counts:
        if part[name] == old:
            part[name] = len(origins)


def _listed(origin: Checkpoint, where: str | None, name: str, layer: int) -> Any:
    """What the config of a layer's model says of it in a list with an entry for each layer."""
    part = origin.config if where is None else origin.config.get(where, {})
    values = part.get(name)
    if not isinstance(values, list) or layer >= len(values):
        raise MergeError(
            f"{origin.folder}: config.json must have `{name}` with an entry for each layer, as the first model has, "
            f"but has none for layer {layer}."
        )
    return values[layer]


def _part(config: dict[str, Any], before: str) -> str | None:
    """The part of a config that speaks of a stack of layers."""
    if any(word in before for word in ("vision", "visual")) and isinstance(config.get("vision_config"), dict):
        return "vision_config"
    if "audio" in before and isinstance(config.get("audio_config"), dict):
        return "audio_config"
    return "text_config" if isinstance(config.get("text_config"), dict) else None


def _names(before: str) -> list[str]:
    """What the number of layers may be called, the stack's own name before a general one."""
    words = [word for word in ("decoder", "encoder") if word in before.split(".")]
    own = [name for name in _COUNTS if words and words[0] in name]
    return own + [name for name in _COUNTS if "coder" not in name]
