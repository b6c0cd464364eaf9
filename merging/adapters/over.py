"""An adapter laid over its base: a checkpoint whose tensors are computed when they are read."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from merging.adapters.files import WEIGHTS, Adapter, is_adapter, open_adapter
from merging.adapters.layout import Layout, layout_of
from merging.adapters.settings import CONFIG_FILE, LoraSettings, unknown_numbers
from merging.checkpoint import Checkpoint, dtype_bytes, fingerprint, open_folder
from merging.errors import CheckpointError
from merging.locate import locate
from merging.recipe import Source

if TYPE_CHECKING:
    from torch import Tensor


Change = Callable[["Tensor"], None]
"""Changes a base's tensor in place, in float32."""


def open_expert(source: Source, base: Checkpoint | None) -> Checkpoint:
    """An expert that is a model's folder, or an adapter over `base`: either way a checkpoint.

    An adapter's tensors are made when they are read, in float32, so that changes too small for the base's dtype stay;
    tensors that it leaves alone are the base's own. Raises `CheckpointError` where it is an adapter and does not fit
    the base, or there is no base.
    """
    folder, from_hub = locate(source)
    if not is_adapter(folder):
        return open_folder(source, folder, from_hub)
    if base is None:
        raise CheckpointError(needs_a_base(source))
    return laid_over(open_adapter(source, folder, from_hub), base)


def needs_a_base(source: Source) -> str:
    """Why an adapter alone cannot be merged."""
    return f"{source.path}: is an adapter, which says what to change in a base, but there is no base; name a `base`."


@dataclass(frozen=True, eq=False)
class Overlaid:
    """The tensors of `base` as `adapter` changes them: a `merging.checkpoint.Overlay`."""

    base: Checkpoint
    adapter: Adapter
    layout: Layout
    changes: Mapping[str, Change]
    settings_file: str = CONFIG_FILE

    def tensor(self, name: str) -> "Tensor":
        import torch

        stored = self.layout.whole.get(name)
        start = self.base.tensor(name) if stored is None else self.adapter.tensor(stored)
        change = self.changes.get(name)
        if change is None:
            return start
        made = start.to(torch.float32, copy=True).contiguous()
        change(made)
        return made

    def non_finite(self) -> list[str]:
        found = []
        for stored in self.adapter.shapes:
            low, high = self.adapter.tensor(stored).aminmax()
            if not (math.isfinite(low.item()) and math.isfinite(high.item())):
                found.append(stored)
        return found

    def fingerprint(self, cache: Path | None, on_progress: Callable[[int, int], None] | None) -> str:
        adapter = self.adapter
        tensors = [
            [stored, adapter.dtypes[stored], list(adapter.shapes[stored]), digest]
            for stored, digest in sorted(adapter.digests(cache).items())
        ]
        settings = adapter.settings.model_dump(mode="json")
        content = {"tensors": tensors, "settings": settings, "base": fingerprint(self.base, cache, on_progress)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def adapter_notes(experts: Mapping[str, Checkpoint]) -> list[str]:
    """What is worth saying of the adapters among experts.

    That they name another base than theirs here: a copy most often, and shapes do fit. And settings that are taken to
    have no say over weights, because they only measure something.
    """
    found = []
    for name, expert in experts.items():
        if isinstance(expert.overlay, Overlaid):
            here, named = expert.overlay.base.source.path, expert.overlay.adapter.config.get("base_model_name_or_path")
            if isinstance(named, str) and named and Path(named).name != Path(here).name:
                found.append(f"the adapter `{name}` says it was made for {named}; here its base is {here}.")
            for key, value in unknown_numbers(expert.overlay.adapter.config).items():
                found.append(f"the adapter `{name}` has `{key}: {value}`, which is not known here and has no effect.")
    return found


def laid_over(adapter: Adapter, base: Checkpoint) -> Checkpoint:
    """The checkpoint that an adapter makes of its base, under the base's names.

    Raises `CheckpointError` where it changes modules that the base lacks, or their shapes are others.
    """
    layout = layout_of(adapter, base)
    changes = _changes(adapter, base, layout)
    shapes = dict(base.shapes) | {name: adapter.shapes[stored] for name, stored in layout.whole.items()}
    dtypes = dict(base.dtypes) | {name: adapter.dtypes[stored] for name, stored in layout.whole.items()}
    dtypes |= dict.fromkeys(changes, "float32")
    return replace(
        base,
        source=adapter.source,
        folder=adapter.folder,
        from_hub=adapter.from_hub,
        files=(WEIGHTS,),
        shapes=shapes,
        dtypes=dtypes,
        nbytes=sum(math.prod(shapes[name]) * dtype_bytes(dtypes[name]) for name in base.names),
        _stored=None,
        _origin=None,
        _overlay=Overlaid(base, adapter, layout, changes),
    )


def _changes(adapter: Adapter, base: Checkpoint, layout: Layout) -> dict[str, Change]:
    """What is done to each tensor of the base that is not only replaced."""
    changes: dict[str, Change] = {}
    for module, placed in layout.modules.items():
        parts = adapter.modules[module]
        if "ia3_l" in parts:
            axis = 0 if placed.scales_outputs != placed.transposed else 1
            changes[placed.weight] = partial(_scale, adapter, parts["ia3_l"], axis)
            if placed.scales_outputs and placed.bias in base.shapes:
                changes[placed.bias] = partial(_scale, adapter, parts["ia3_l"], 0)
            continue
        changes[placed.weight] = partial(_lora, adapter, module, placed.transposed)
        if "lora_B.bias" in parts:
            changes[placed.bias] = partial(_bias, adapter, module)
    return changes


def _lora(adapter: Adapter, module: str, transposed: bool, weight: "Tensor") -> None:
    from merging.adapters.arithmetic import add_product, set_magnitudes

    settings, parts = adapter.settings, adapter.modules[module]
    assert isinstance(settings, LoraSettings)
    if "tokens" in parts:
        rows = settings.tokens(module) or []
        weight[rows] = adapter.finite(parts["tokens"])
    names = [parts[part] for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B") if part in parts]
    if names:
        a, b = map(adapter.finite, names)
        add_product(weight, a, b, settings.scaling(module), transposed)
    if "lora_magnitude_vector" in parts:
        set_magnitudes(weight, adapter.finite(parts["lora_magnitude_vector"]), transposed)


def _bias(adapter: Adapter, module: str, bias: "Tensor") -> None:
    assert isinstance(adapter.settings, LoraSettings)
    bias.add_(adapter.finite(adapter.modules[module]["lora_B.bias"]), alpha=adapter.settings.scaling(module))


def _scale(adapter: Adapter, stored: str, axis: int, tensor: "Tensor") -> None:
    from merging.adapters.arithmetic import scale

    scale(tensor, adapter.finite(stored), axis)
