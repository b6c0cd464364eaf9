"""One opened adapter folder: which tensors it has for which module of its base."""

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from merging.adapters.settings import CONFIG_FILE, LoraSettings, Settings, read_settings
from merging.checkpoint import read_header, tensor_digest
from merging.errors import CheckpointError
from merging.hash_cache import remembered
from merging.recipe import Source
from merging.weight_files import SUFFIX, index_name

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
OUTER = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|ia3_l"
    r"|token_adapter\.trainable_tokens_delta)(?:\.default)?(?:\.(?P<what>weight|bias))?"
)
# What peft wraps around modules that an adapter holds whole.
_WRAPPERS = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer|token_adapter\.base_layer)(?=\.)")
_ONLY_LORA = ("lora_A", "lora_B", "lora_B.bias", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))
_FEW = 3


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter folder whose file has been found whole.

    `modules` has, for every module that the adapter changes, by its name in the model, the parts (`lora_A`, `lora_B`,
    `lora_B.bias`, `lora_embedding_A`, `lora_embedding_B`, `lora_magnitude_vector`, `ia3_l`, `tokens`) with the names
    of their tensors in the file; `whole` has the tensors that replace the base's. Both are sorted. `config` is
    adapter_config.json as it stands.
    """

    source: Source
    folder: Path
    from_hub: bool
    settings: Settings
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    modules: dict[str, dict[str, str]]
    whole: dict[str, str]
    _handle: list[Any] = field(repr=False, default_factory=list)
    _lock: threading.Lock = field(repr=False, default_factory=threading.Lock)

    def tensor(self, stored: str) -> "Tensor":
        """A tensor by its name in the file, backed by the mapped file: never write to it."""
        with self._lock:
            if not self._handle:
                self._handle.append(safe_open(self.folder / WEIGHTS, framework="pt"))
            tensor: Tensor = self._handle[0].get_tensor(stored)
        return tensor

    def finite(self, stored: str) -> "Tensor":
        """The tensor in float32, a copy. Raises `CheckpointError` where it holds NaN or infinity."""
        import torch

        tensor = self.tensor(stored).to(torch.float32, copy=True)
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{self.folder / WEIGHTS}: `{stored}` must be finite, but holds NaN or infinity; save or download the "
                "adapter again."
            )
        return tensor

    def digests(self, cache: Path | None = None) -> dict[str, str]:
        """The sha256 of every tensor's bytes (remembered, see `merging.hash_cache`)."""
        found: dict[str, str] = remembered(self.folder / WEIGHTS, "tensors", partial(_digests, self), cache)
        return found


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of `peft` and not a model's weights as well."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    return not any((folder / name).is_file() for name in (f"model{SUFFIX}", index_name("model")))


def open_adapter(source: Source, folder: Path, from_hub: bool) -> Adapter:
    """Open an adapter's folder, reading settings and header only.

    Raises `CheckpointError` where there is no whole safetensors file, the kind of adapter is not read, a tensor is of
    no known part, a factor lacks the other, or ranks are not those of the settings.
    """
    settings, config = read_settings(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = f", and {_PICKLE} is not read, because a pickle can run code" if (folder / _PICKLE).is_file() else ""
        raise CheckpointError(f"{folder}: has {CONFIG_FILE} but no {WEIGHTS}{pickled}; save it again with peft.")
    header = read_header(folder / WEIGHTS)
    modules, whole = _sorted_out(folder, header)
    if not modules and not whole:
        raise CheckpointError(f"{folder / WEIGHTS}: holds no tensors; save the adapter again with peft.")
    adapter = Adapter(
        source=source,
        folder=folder,
        from_hub=from_hub,
        settings=settings,
        config=config,
        shapes={stored: shape for stored, (shape, _) in header.items()},
        dtypes={stored: dtype for stored, (_, dtype) in header.items()},
        modules={module: modules[module] for module in sorted(modules)},
        whole={name: whole[name] for name in sorted(whole)},
    )
    problems = list(_problems(adapter))
    if problems:
        raise CheckpointError(f"{folder}: " + few(problems, "; ") + ". Save or download the adapter again.")
    return adapter


def few(words: list[str], between: str = ", ") -> str:
    """The first of many, and how many more there are."""
    rest = f" and {len(words) - _FEW} more" if len(words) > _FEW else ""
    return between.join(words[:_FEW]) + rest


def _sorted_out(folder: Path, header: Mapping[str, Any]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    modules: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    unknown = []
    for stored in sorted(header):
        name = stored.removeprefix(OUTER)
        found = _PART.fullmatch(name)
        part = _part(found["part"], found["what"]) if found else None
        if found and part:
            parts = modules.setdefault(_WRAPPERS.sub("", found["module"] + ".").rstrip("."), {})
            if part in parts:
                unknown.append(stored)
            parts[part] = stored
        elif found or "lora_" in name or "ia3_" in name:
            unknown.append(stored)
        else:
            whole[_WRAPPERS.sub("", name)] = stored
    if unknown:
        raise CheckpointError(
            f"{folder / WEIGHTS}: holds {len(unknown)} tensors that are no part of an adapter known here: "
            f"{few(unknown)}. Merge it into its base first (peft: `model.merge_and_unload().save_pretrained(...)`)."
        )
    return modules, whole


def _part(part: str, what: str | None) -> str | None:
    """The part's name in `Adapter.modules`, None for an ending that it does not have."""
    if part == "lora_B" and what == "bias":
        return "lora_B.bias"
    if part in ("lora_A", "lora_B"):
        return part if what == "weight" else None
    if what is not None and part != "lora_magnitude_vector":
        return None
    return "tokens" if part.startswith("token_adapter") else part


def _problems(adapter: Adapter) -> Iterator[str]:
    """What in an adapter's parts does not go together, without a look at the base."""
    settings = adapter.settings
    for module, parts in adapter.modules.items():
        if not isinstance(settings, LoraSettings):
            strange = [part for part in parts if part != "ia3_l"]
            if strange:
                yield f"`{module}` must have `ia3_l` and nothing else, but has `{strange[0]}`"
            continue
        if "ia3_l" in parts:
            yield f"`{module}` has `ia3_l`, but `peft_type` is LORA"
        pairs = [pair for pair in _PAIRS if any(part in parts for part in pair)]
        for pair in pairs:
            lacking = [part for part in pair if part not in parts]
            if lacking:
                yield f"`{module}` must have `{pair[0]}` and `{pair[1]}`, but lacks `{lacking[0]}`"
            elif not lacking:
                yield from _rank_problems(adapter, module, parts, pair)
        if not pairs and any(part in parts for part in _ONLY_LORA):
            yield f"`{module}` has `{next(iter(parts))}`, but neither of `lora_A` and `lora_B`"
        if len(pairs) > 1:
            yield f"`{module}` has the factors of a layer and of an embedding"
        if pairs and settings.use_dora != ("lora_magnitude_vector" in parts):
            has = "lacks" if settings.use_dora else "has"
            yield f"`use_dora` is {str(settings.use_dora).lower()}, but `{module}` {has} `lora_magnitude_vector`"


def _rank_problems(adapter: Adapter, module: str, parts: dict[str, str], pair: tuple[str, str]) -> Iterator[str]:
    assert isinstance(adapter.settings, LoraSettings)
    rank = adapter.settings.rank(module)
    a, b = (adapter.shapes[parts[part]] for part in pair)
    if len(a) < 2 or len(b) < 2 or a[0] != rank or b[1] != rank:
        yield f"the factors of `{module}` must have rank {rank}, but have shapes {a} and {b}"


def _digests(adapter: Adapter) -> dict[str, str]:
    return {stored: tensor_digest(adapter.tensor(stored)) for stored in adapter.shapes}
