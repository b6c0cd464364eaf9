"""Fill the parameters of a live model in place."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from merging.errors import MergeError
from merging.step import Step

_FEW = 3


@torch.no_grad()
def load_into(model: nn.Module, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy every tensor into the parameter or buffer of its name, in the model's own dtype and on its device.

    Raises `MergeError` where a name or shape does not fit, or something is left unfilled (see `Places`); the model's
    content is then undefined.
    """
    places = Places(model)
    for name, tensor in tensors:
        target = places.of(name, tensor.shape)
        if target is not None:
            target.copy_(tensor)
    places.check_complete()


def placed(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The parameter or buffer that each tensor fills, by name; those that the model needs none of are left out.

    Of several tensors with one place the last would stay, so it alone has it. Raises `MergeError` where the tensors do
    not fit the model (see `Places`).
    """
    places = Places(model)
    found = {name: places.of(name, shape) for name, shape in shapes.items()}
    places.check_complete()
    last = {id(target): name for name, target in found.items() if target is not None}
    return {name: target for name, target in found.items() if target is not None and last[id(target)] == name}


@torch.no_grad()
def make_into(target: Tensor, step: Step, directions: Sequence[Tensor] | None = None) -> None:
    """Make a step's tensor where it is to stay, or beside it where dtype, device or layout are others.

    `directions` are those of `Step.into`. Raises `MergeError` as it does.
    """
    direct = target.device.type == "cpu" and target.dtype == step.dtype and target.is_contiguous()
    out = target.detach() if direct else torch.empty(step.shape, dtype=step.dtype)
    step.into(out, directions)
    if not direct:
        target.copy_(out)


class Places:
    """Where a checkpoint's tensors go in a live model.

    A checkpoint of the bare model fits one with a head on top and the other way round (`base_model_prefix`), and
    names are changed as transformers does while loading. Tensors that the model computes for itself
    (non-persistent buffers, names it lists as ignored) have no place; a parameter tied to a filled one is
    filled. Not handled: classes that pack several tensors into one while loading, mixtures of experts above
    all.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._targets: dict[str, Tensor] = model.state_dict(keep_vars=True)
        self._computed = {name for name, _ in model.named_buffers()} - set(self._targets)
        self._prefix = str(getattr(model, "base_model_prefix", "") or "")
        self._renamings = _renamings(model)
        self._filled: dict[int, str] = {}
        self._strangers: list[str] = []

    def of(self, name: str, shape: Sequence[int]) -> Tensor | None:
        """The parameter or buffer a tensor fills; None where the model needs none. Raises `MergeError` on its shape."""
        prefix = self._prefix
        spellings = [*_spellings(name, prefix), *_spellings(_renamed(name, self._renamings), prefix)]
        found = next((known for known in spellings if known in self._targets), None)
        if found is None:
            if not _is_ignored(self._model, name, spellings, self._computed):
                self._strangers.append(name)
            return None
        target = self._targets[found]
        if target.shape != tuple(shape):
            raise MergeError(f"`{name}` must have shape {tuple(target.shape)}, but has {tuple(shape)}.")
        self._filled[id(target)] = name
        return target

    def check_complete(self) -> None:
        """Raise `MergeError` where a tensor asked about has no place, or a place was not asked for."""
        kind = type(self._model).__name__
        if self._strangers:
            raise MergeError(
                f"{kind} has no place for {_few(self._strangers)}. A model class that packs its weights "
                "while loading, as mixtures of experts do, cannot be filled in place."
            )
        unfilled = [name for name, target in self._targets.items() if id(target) not in self._filled]
        if unfilled:
            raise MergeError(f"{kind} was left with {_few(unfilled)} that the checkpoint does not have.")


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
