"""One opened model folder: names, shapes and dtypes at once, tensors by memory map."""

import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from safetensors import SafetensorError, safe_open

from merging.errors import CheckpointError
from merging.hash_cache import remembered, remembered_together
from merging.locate import locate
from merging.recipe import Source
from merging.tied import tied_head
from merging.weight_files import WeightFiles, has_file, index_name, read_json, weight_files
from merging.weight_hashes import weight_hashes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "dtype_bytes",
    "file_hashes",
    "fingerprint",
    "hash_weights",
    "open_checkpoint",
]

# safetensors' name for a dtype, torch's name for it, bytes per element
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
_BYTES = dict(_DTYPES.values())
CONFIG = "config.json"
FLOATS = ("float64", "float32", "float16", "bfloat16")


class Overlay(Protocol):
    """What stands in the place of a model's stored tensors: an adapter over its base (`merging.adapters`)."""

    @property
    def base(self) -> "Checkpoint":
        """The model under it."""

    @property
    def settings_file(self) -> str:
        """The file of settings beside the weight files."""

    def tensor(self, name: str) -> "Tensor":
        """The tensor of the base under this name, as the overlay changes it."""

    def non_finite(self) -> list[str]:
        """Tensors in the overlay's own files that hold NaN or infinity."""

    def fingerprint(self, cache: Path | None, on_progress: Callable[[int, int], None] | None) -> str:
        """A hash of what it makes of its base."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model folder whose weight files have been found whole, or an adapter's folder over such a model.

    `names` are sorted and leave out a head that is tied to the embeddings. `shapes` and `dtypes` (torch's
    names: `bfloat16`) have every name; `nbytes` is the size of them all. `files` are the weight files, whose
    names begin with `stem`. `config` is empty where the folder has no config.json: not every kind of model has one.
    `from_hub` says that `source.path` is a Hub id and not a path. Of an adapter, `folder` and `files` are its own, all
    else is as the adapter makes it of its base.
    """

    source: Source
    folder: Path
    from_hub: bool
    config: dict[str, Any]
    stem: str
    files: tuple[str, ...]
    names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    nbytes: int
    _home: dict[str, str] = field(repr=False)
    _handles: dict[str, Any] = field(repr=False, default_factory=dict)
    _lock: threading.Lock = field(repr=False, default_factory=threading.Lock)
    _stored: Mapping[str, str] | None = field(repr=False, default=None)
    _origin: "Checkpoint | None" = field(repr=False, default=None)
    _overlay: Overlay | None = field(repr=False, default=None)

    def tensor(self, name: str) -> "Tensor":
        """The tensor as it is stored. It is backed by the mapped file: never write to it.

        What an adapter changes is made anew at each call, in float32. Raises `KeyError` where the checkpoint has no
        such tensor.
        """
        stored = name if self._stored is None else self._stored[name]
        if self._overlay is not None:
            return self._overlay.tensor(stored)
        file = self._home[stored]
        with self._lock:
            if file not in self._handles:
                self._handles[file] = safe_open(self.folder / file, framework="pt")
            tensor: Tensor = self._handles[file].get_tensor(stored)
        return tensor

    @property
    def overlay(self) -> Overlay | None:
        """What stands in the place of stored tensors, where the folder is an adapter's."""
        return self._overlay

    @property
    def model_folder(self) -> Path:
        """The folder with the model's config and tokenizer: that of the base, of an adapter."""
        return self.folder if self._overlay is None else self._overlay.base.model_folder

    @property
    def is_transformers(self) -> bool:
        """Whether transformers saved it, so that its rules hold: heads tied while loading, a dtype in the config."""
        return "model_type" in self.config

    def is_float(self, name: str) -> bool:
        """Whether the tensor takes part in a merge; whole numbers and booleans do not."""
        return self.dtypes[name] in FLOATS


def open_checkpoint(source: Source) -> Checkpoint:
    """Open a local folder, or a Hub repository at a revision, reading headers only.

    Raises `CheckpointError` where the folder is missing, holds no safetensors, is quantized, is damaged, or
    ties head and embeddings that are not equal.
    """
    return open_folder(source, *locate(source))


def open_folder(source: Source, folder: Path, from_hub: bool) -> Checkpoint:
    """As `open_checkpoint`, of a source that has been located."""
    weights = weight_files(folder)
    config = read_json(folder / CONFIG) if has_file(folder / CONFIG) else {}
    if "quantization_config" in config:
        raise CheckpointError(
            f"{folder}: the weights are quantized, and packed numbers cannot be averaged; merge the "
            "unquantized models and quantize the result."
        )
    headers = {file: read_header(folder / file) for file in weights.files}
    if weights.index is not None:
        _check_index(folder, weights, headers)
    home = {name: file for file, header in headers.items() for name in header}
    facts = {name: headers[file][name] for name, file in home.items()}
    opened = _checkpoint(source, folder, from_hub, config, weights, home, facts)
    head = tied_head(opened) if opened.is_transformers else None
    if head is None:
        return opened
    del facts[head]
    return _checkpoint(source, folder, from_hub, config, weights, home, facts)


def renamed(checkpoint: Checkpoint, stored: Mapping[str, str]) -> Checkpoint:
    """The checkpoint under other names: `stored` maps each to the one in the file. Tensors it leaves out are gone.

    Its fingerprint stays that of the files.
    """
    names = tuple(sorted(stored))
    shapes = {name: checkpoint.shapes[stored[name]] for name in names}
    dtypes = {name: checkpoint.dtypes[stored[name]] for name in names}
    size = sum(math.prod(shapes[name]) * _BYTES[dtypes[name]] for name in names)
    changes: dict[str, Any] = {"names": names, "shapes": shapes, "dtypes": dtypes, "nbytes": size}
    origin = checkpoint._origin or checkpoint
    before = checkpoint._stored or {}
    files = {name: before.get(stored[name], stored[name]) for name in names}
    return replace(checkpoint, **changes, _stored=files, _origin=origin)


def dtype_bytes(dtype: str) -> int:
    """Bytes per element of a dtype by torch's name, `bfloat16` say."""
    return _BYTES[dtype]


def fingerprint(
    checkpoint: Checkpoint,
    cache: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """A hash of the weights themselves: sha256 over every tensor's name, dtype, shape and bytes, sorted.

    It does not depend on how the weights are cut into files. That of an adapter is a hash of its tensors, its settings
    and its base's fingerprint. Hashes are remembered per file (see `merging.hash_cache`); `on_progress(done, files)`
    is called after each file.
    """
    checkpoint = checkpoint._origin or checkpoint
    if checkpoint._overlay is not None:
        return checkpoint._overlay.fingerprint(cache, on_progress)
    digests: dict[str, str] = {}
    for done, file in enumerate(checkpoint.files, start=1):
        digests |= remembered(checkpoint.folder / file, "tensors", partial(_tensor_digests, checkpoint, file), cache)
        if on_progress is not None:
            on_progress(done, len(checkpoint.files))
    whole = hashlib.sha256()
    for name in checkpoint.names:
        line = [name, checkpoint.dtypes[name], str(checkpoint.shapes[name]), digests[name]]
        whole.update("\0".join(line).encode() + b"\n")
    return whole.hexdigest()


def file_hashes(checkpoint: Checkpoint, cache: Path | None = None) -> dict[str, str]:
    """The sha256 of every weight file, index and config: what a lineage record names. Of an adapter, its own files."""
    settings = CONFIG if checkpoint._overlay is None else checkpoint._overlay.settings_file
    beside = (settings, index_name(checkpoint.stem)) if len(checkpoint.files) > 1 else (settings,)
    names = [*checkpoint.files, *(name for name in beside if (checkpoint.folder / name).is_file())]
    paths = {name: checkpoint.folder / name for name in sorted(names)}
    return {name: remembered(path, "sha256", partial(_sha256, path), cache) for name, path in paths.items()}


def hash_weights(checkpoints: Iterable[Checkpoint], threads: int, cache: Path | None = None) -> None:
    """Take the hashes that `fingerprint` and `file_hashes` ask for, where they are not remembered: each file is read
    once for both, `threads` of them at a time. Adapters are small, and left to those; their bases are not.
    """
    below = (one._origin or one for one in checkpoints)
    models = [one if one._overlay is None else one._overlay.base for one in below]
    files = dict.fromkeys(model.folder / file for model in models for file in model.files)

    def take(file: Path) -> None:
        remembered_together(file, ("sha256", "tensors"), partial(weight_hashes, file), cache)

    with ThreadPoolExecutor(threads, "mergeopt-hash") as pool:
        for done in [pool.submit(take, file) for file in files]:
            done.result()


def _checkpoint(
    source: Source,
    folder: Path,
    from_hub: bool,
    config: dict[str, Any],
    weights: WeightFiles,
    home: dict[str, str],
    facts: dict[str, tuple[tuple[int, ...], str]],
) -> Checkpoint:
    return Checkpoint(
        source=source,
        folder=folder,
        from_hub=from_hub,
        config=config,
        stem=weights.stem,
        files=weights.files,
        names=tuple(sorted(facts)),
        shapes={name: facts[name][0] for name in sorted(facts)},
        dtypes={name: facts[name][1] for name in sorted(facts)},
        nbytes=sum(math.prod(shape) * _BYTES[dtype] for shape, dtype in facts.values()),
        _home=home,
    )


def read_header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every tensor in a file. Opening it also checks that no byte is missing.

    Raises `CheckpointError` where it is damaged or holds packed numbers.
    """
    found = {}
    try:
        with safe_open(file, framework="np") as opened:  # numpy, because headers need no torch
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                part = opened.get_slice(name)
                found[name] = (tuple(part.get_shape()), part.get_dtype())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: is not a whole safetensors file ({error}); download it again.") from error
    strange = {name: dtype for name, (_, dtype) in found.items() if dtype not in _DTYPES}
    if strange:
        name, dtype = next(iter(strange.items()))
        raise CheckpointError(
            f"{file}: `{name}` is stored as {dtype}, which cannot be averaged; "
            f"there is: {', '.join(_DTYPES)}. Merge the unquantized models and quantize the result."
        )
    return {name: (shape, _DTYPES[dtype][0]) for name, (shape, dtype) in found.items()}


def _check_index(folder: Path, weights: WeightFiles, headers: dict[str, dict[str, Any]]) -> None:
    index = weights.index or {}
    lacking = [name for name, file in index.items() if name not in headers[file]]
    if lacking:
        raise CheckpointError(
            f"{folder / index_name(weights.stem)}: names {len(lacking)} tensors that their shards lack, "
            f"first `{lacking[0]}` in {index[lacking[0]]}; download the folder again."
        )
    for file, header in headers.items():
        stray = [name for name in header if index.get(name) != file]
        if stray:
            raise CheckpointError(
                f"{folder / file}: holds {len(stray)} tensors that the index does not put there, "
                f"first `{stray[0]}`; shards of two models may be mixed, download the folder again."
            )


def _tensor_digests(checkpoint: Checkpoint, file: str) -> dict[str, str]:
    names = sorted(name for name, home in checkpoint._home.items() if home == file)
    return {name: tensor_digest(checkpoint.tensor(name)) for name in names}


def tensor_digest(tensor: "Tensor") -> str:
    """The sha256 of a tensor's bytes."""
    import torch

    view: Any = tensor.reshape(-1).view(torch.uint8).numpy()  # numpy's types do not tell that an array is a buffer
    return hashlib.sha256(view).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
