"""Fill the parameters of a live model in place."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from merging.errors import MergeError

_FEW = 3


@torch.no_grad()
def load_into(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy every tensor into the parameter or buffer of its name, in the model's own dtype and on its device.

    A checkpoint of the bare model fits one with a head on top and the other way round (`base_model_prefix`), and
    names are changed as transformers does while loading. Tensors that the model computes for itself
    (non-persistent buffers, names it lists as ignored) are passed over; a parameter tied to a filled one is
    filled. Not handled: classes that pack several tensors into one while loading, mixtures of experts above
    all. Raises `MergeError` where a name or shape does not fit, or something is left unfilled; the model's
    content is then undefined.
    """
    targets: dict[str, Tensor] = model.state_dict(keep_vars=True)
    computed = {name for name, _ in model.named_buffers()} - set(targets)
    prefix = str(getattr(model, "base_model_prefix", "") or "")
    renamings = _renamings(model)
    filled: dict[int, str] = {}
    strangers = []
    for name, tensor in tensors:
        spellings = [*_spellings(name, prefix), *_spellings(_renamed(name, renamings), prefix)]
        found = next((known for known in spellings if known in targets), None)
        if found is not None:
            _fill(targets[found], tensor, name)
            filled[id(targets[found])] = name
        elif not _is_ignored(model, name, spellings, computed):
            strangers.append(name)
    if strangers:
        raise MergeError(
            f"{type(model).__name__} has no place for {_few(strangers)}. A model class that packs its weights "
            "while loading, as mixtures of experts do, cannot be filled in place."
        )
    unfilled = [name for name, target in targets.items() if id(target) not in filled]
    if unfilled:
        raise MergeError(f"{type(model).__name__} was left with {_few(unfilled)} that the checkpoint does not have.")


def _fill(target: Tensor, tensor: Tensor, name: str) -> None:
    if target.shape != tensor.shape:
        raise MergeError(f"`{name}` must have shape {tuple(target.shape)}, but has {tuple(tensor.shape)}.")
    target.copy_(tensor)


def _spellings(name: str, prefix: str) -> list[str]:
    """The name itself, then with and without the prefix of the bare model."""
    if not prefix:
        return [name]
    return [name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")]


def _renamings(model: nn.Module) -> list[Any]:
    """How transformers renames this model's tensors while loading; nothing for other modules."""
    if not hasattr(model, "base_model_prefix"):
        return []
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    mapping: list[Any] = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    return [change for change in mapping if isinstance(change, WeightRenaming)]


def _renamed(name: str, renamings: list[Any]) -> str:
    for change in renamings:
        name, _ = change.rename_source_key(name)
    return name


def _is_ignored(model: nn.Module, name: str, spellings: list[str], computed: set[str]) -> bool:
    patterns: Any = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(spelling in computed for spelling in spellings) or any(re.search(pattern, name) for pattern in patterns)


def _few(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_FEW])
    rest = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"{len(names)} tensors ({shown}{rest})"
