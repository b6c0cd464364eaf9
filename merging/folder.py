"""Write a merged model as a Hugging Face folder that is complete or absent."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from merging.card import model_card
from merging.checkpoint import CONFIG, Checkpoint
from merging.errors import MergeError
from merging.materialize import materialize, merged_dtypes
from merging.recipe import Recipe
from merging.sources import Sources
from merging.weight_files import SUFFIX, index_name

RECIPE_FILE = "mergeopt_recipe.json"
# What a model needs beside its weights and config. Code (*.py) is left behind on purpose.
_COMPANIONS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template.*",
    "*processor_config.json",
)
_LEFT_BEHIND = ("adapter_config.json",)  # a folder that has one is taken for an adapter


def write_checkpoint(
    recipe: Recipe,
    sources: Sources,
    folder: Path,
    card_text: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Materialize a recipe into `folder`: weights, config, tokenizer, recipe and card.

    One shard is in memory at a time, at most `max_shard_bytes` (or one tensor). `card_text` is the whole
    README.md; without it `merging.card.model_card` writes one. `on_progress(done, tensors)` is called after
    each tensor. Raises `MergeError` where the folder exists or the merge fails, `OSError` where the disk
    does; nothing is left behind then.
    """

    def texts() -> dict[str, str]:
        card = model_card(recipe, sources) if card_text is None else card_text
        return {RECIPE_FILE: recipe.model_dump_json(indent=2) + "\n", "README.md": card}

    tensors = materialize(recipe, sources)
    return write_model(tensors, recipe, sources, folder, texts, max_shard_bytes, on_progress)


def write_model(
    tensors: Iterator[tuple[str, Tensor]],
    recipe: Recipe,
    sources: Sources,
    folder: Path,
    texts: Callable[[], Mapping[str, str]],
    max_shard_bytes: int = 5_000_000_000,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write tensors, in the names, order and dtypes of the recipe's merge, as a model's folder with files of text.

    Config, tokenizer and the like are the reference's. `texts` is asked once the weights are written: a card may
    need to read the sources. Raises and leaves nothing behind as `write_checkpoint` does.
    """
    folder = Path(folder)
    with _complete_or_absent(folder) as building:
        shards = _shards(recipe, sources, max_shard_bytes)
        _write_weights(tensors, sources.reference.stem, building, shards, on_progress)
        _copy_companions(sources.reference, building)
        _write_config(sources.reference, recipe.dtype, building)
        for name, text in texts().items():
            _write_text(building / name, text)
        for file in building.rglob("*"):
            _sync(file)
    return folder


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder beside the target that takes its name at the end, and is removed if the end is not reached."""
    if folder.exists() or folder.is_symlink():
        raise MergeError(f"{folder}: the target must not exist, but does; choose another name or remove it.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial"))
    try:
        yield building
        building.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        _sync(building)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _sync(folder.parent)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _shards(recipe: Recipe, sources: Sources, max_bytes: int) -> list[list[str]]:
    """The tensors of each weight file, in sorted order, known from shapes and dtypes alone."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, dtype in merged_dtypes(recipe, sources).items():
        size = dtype.itemsize
        for length in sources.reference.shapes[name]:
            size *= length
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _write_weights(
    tensors: Iterator[tuple[str, Tensor]],
    stem: str,
    building: Path,
    shards: list[list[str]],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    count = sum(len(shard) for shard in shards)
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, start=1):
        part = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
        file = f"{stem}{part}{SUFFIX}"
        shard: dict[str, Tensor] = {}
        for expected in names:
            name, tensor = next(tensors)
            if name != expected:
                raise MergeError(f"tensor `{expected}` must come next, but `{name}` did; this is a fault of mergeopt.")
            shard[name] = tensor
            weight_map[name] = file
            total += tensor.nbytes
            if on_progress is not None:
                on_progress(len(weight_map), count)
        save_file(shard, building / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_text(building / index_name(stem), json.dumps(index, indent=2) + "\n")


def _copy_companions(reference: Checkpoint, building: Path) -> None:
    # what files another library's model needs, only that library knows: all settings are kept
    wanted = _COMPANIONS if reference.is_transformers else (*_COMPANIONS, "*.json")
    for file in sorted(reference.folder.iterdir()):
        if file.name in _LEFT_BEHIND or file.name.endswith(index_name("")) or not file.is_file():
            continue
        if any(fnmatch(file.name, pattern) for pattern in wanted):
            shutil.copyfile(file, building / file.name)
    templates = reference.folder / "additional_chat_templates"
    if templates.is_dir():
        (building / templates.name).mkdir()
        for file in sorted(templates.glob("*.jinja")):
            shutil.copyfile(file, building / templates.name / file.name)


def _write_config(reference: Checkpoint, dtype: str | None, building: Path) -> None:
    if not (reference.folder / CONFIG).is_file():
        return
    # other libraries than transformers do not keep the dtype there
    config = _with_dtype(reference.config, dtype) if reference.is_transformers else reference.config
    _write_text(building / CONFIG, json.dumps(config, indent=2) + "\n")


def _with_dtype(config: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    """The config with every mention of the weights' dtype replaced: transformers loads the model in it."""
    if dtype is None:
        return config
    changed = {
        key: _with_dtype(value, dtype) if key.endswith("_config") and isinstance(value, dict) else value
        for key, value in config.items()
    }
    mentions = [key for key in ("dtype", "torch_dtype") if key in config]
    return changed | dict.fromkeys(mentions or ["dtype"], dtype)


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
