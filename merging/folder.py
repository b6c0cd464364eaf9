"""Write a merged model as a Hugging Face folder that is complete or absent."""

import copy
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor

from merging.card import model_card
from merging.checkpoint import CONFIG, Checkpoint
from merging.depth import set_layers
from merging.errors import MergeError
from merging.groups import split_at_layer
from merging.materialize import merged_dtypes, steps
from merging.provenance import PROVENANCE_FILE, provenance
from merging.recipe import Recipe
from merging.shards import Shards
from merging.sources import Sources
from merging.step import Step
from merging.stream import Progress, stream
from merging.threads import processors, torch_threads
from merging.weight_files import has_file, index_name

MAX_SHARD_BYTES = 5_000_000_000
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
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_progress: Progress | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Path:
    """Materialize a recipe into `folder`: weights, config, tokenizer, recipe and card.

    No weight file is ever in memory (see `merging.stream`, also for `threads` and `device`). `card_text` is the whole
    README.md; without it `merging.card.model_card` writes one. `on_progress(done, tensors)` is called after
    each tensor. Raises `MergeError` where the folder exists, another merge is writing it or the merge fails, `OSError`
    where the disk does; nothing is left behind then.
    """

    def finish(building: Path) -> None:
        card = model_card(recipe, sources) if card_text is None else card_text
        _write_text(building / RECIPE_FILE, recipe.model_dump_json(indent=2) + "\n")
        _write_text(building / PROVENANCE_FILE, provenance(recipe, sources))
        _write_text(building / "README.md", card)

    with complete_or_absent(folder) as building:
        with torch_threads(threads or processors()):
            made = steps(recipe, sources)  # inside the folder: this may read all models
        _write_streamed(made, sources.reference.stem, building, max_shard_bytes, threads, device, on_progress)
        _furnish(building, sources.reference, _along(recipe, sources, _config(sources.reference, recipe.dtype)), finish)
    return Path(folder)


def _along(recipe: Recipe, sources: Sources, config: dict[str, Any] | None) -> dict[str, Any] | None:
    """The config with the layers of the recipe's path, where it has one."""
    if recipe.path is None or not config:
        return config
    base, experts = sources.chosen(recipe)
    models = {"base": base, **experts}
    found = copy.deepcopy(config)
    donor = sources.reference
    visited = [(models[one.source] or donor if one.source is not None else donor, one.layer) for one in recipe.path]
    stack = next(split[0] for name in donor.names if (split := split_at_layer(name)) is not None)
    set_layers(found, stack, visited)
    return found


def write_steps(
    steps: Sequence[Step],
    reference: Checkpoint,
    folder: Path,
    *,
    finish: Callable[[Path], None],
    config: dict[str, Any] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    threads: int | None = None,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> Path:
    """Carry out steps into a model's folder with tokenizer and the like of `reference`.

    `config` is the whole config.json, that of `reference` where None. `finish` gets the folder once weights, config and
    tokenizer are in it, to write further files. The rest is as in `write_checkpoint`.
    """
    with complete_or_absent(folder) as building:
        _write_streamed(steps, reference.stem, building, max_shard_bytes, threads, device, on_progress)
        _furnish(building, reference, _config(reference, None) if config is None else config, finish)
    return Path(folder)


def write_model(
    tensors: Iterator[tuple[str, Tensor]],
    recipe: Recipe,
    sources: Sources,
    folder: Path,
    texts: Callable[[], Mapping[str, str]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
    on_progress: Progress | None = None,
) -> Path:
    """Write tensors, in the names and dtypes of the recipe's merge, as a model's folder with files of text.

    Config, tokenizer and the like are the reference's. `texts` is asked once the weights are written: a card may
    need to read the sources. Raises and leaves nothing behind as `write_checkpoint` does.
    """

    def finish(building: Path) -> None:
        for name, text in texts().items():
            _write_text(building / name, text)

    with complete_or_absent(folder) as building:
        dtypes = merged_dtypes(recipe, sources)
        shapes = {name: sources.reference.shapes[name] for name in dtypes}
        with Shards(building, sources.reference.stem, shapes, dtypes, max_shard_bytes) as shards:
            for done, name in enumerate(dtypes, start=1):
                given, tensor = next(tensors)
                if given != name:
                    raise MergeError(f"tensor `{name}` must come next, but `{given}` did; this is a fault of mergeopt.")
                shards.write(name, 0, tensor.reshape(-1))
                if on_progress is not None:
                    on_progress(done, len(dtypes))
        _furnish(building, sources.reference, _config(sources.reference, recipe.dtype), finish)
    return Path(folder)


def _write_streamed(
    steps: Sequence[Step],
    stem: str,
    building: Path,
    max_shard_bytes: int,
    threads: int | None,
    device: str,
    on_progress: Progress | None,
) -> None:
    shapes, dtypes = {step.name: step.shape for step in steps}, {step.name: step.dtype for step in steps}
    with Shards(building, stem, shapes, dtypes, max_shard_bytes) as shards:
        stream(steps, shards.write, threads, device, on_progress)


def _furnish(
    building: Path, reference: Checkpoint, config: dict[str, Any] | None, finish: Callable[[Path], None]
) -> None:
    """What a folder needs beside its weights; then wait until all of it is on the disk."""
    _copy_companions(reference, building)
    if config is not None:
        _write_text(building / CONFIG, json.dumps(config, indent=2) + "\n")
    finish(building)
    for file in building.rglob("*"):
        _sync(file)


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder beside the target that takes its name at the end, and is removed if the end is not reached.

    One merge at a time may be under way to a target; what a killed one left is cleared.
    """
    folder = Path(folder)
    _refuse(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.parent / f".{folder.name}.partial"
    with _alone(building, folder):
        try:
            _refuse(folder)
            yield building
            _sync(building)
            _refuse(folder)
            building.rename(folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
    _sync(folder.parent)


def _refuse(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise MergeError(f"{folder}: the target must not exist, but does; choose another name or remove it.")


@contextmanager
def _alone(building: Path, folder: Path) -> Iterator[None]:
    """Inside, the folder `building` is there, empty, and no other process uses it.

    The lock is on the folder itself: it goes with it, and with a process that dies. Where a file system knows no locks,
    a folder that is there counts as used.
    """
    found = building.is_dir()
    building.mkdir(exist_ok=True)
    lock = os.open(building, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if found or isinstance(error, BlockingIOError):
                raise MergeError(
                    f"{folder}: must be written by one merge at a time, but another one is writing it; choose another "
                    f"name, or wait for it. If none is under way, remove {building}."
                ) from None
        if not building.is_dir() or not os.path.samestat(os.fstat(lock), building.stat()):
            raise MergeError(f"{folder}: another merge has just been writing it; look at it, and try again.")
        for entry in building.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield
    finally:
        os.close(lock)


def _copy_companions(reference: Checkpoint, building: Path) -> None:
    # what files another library's model needs, only that library knows: all settings are kept
    wanted = _COMPANIONS if reference.is_transformers else (*_COMPANIONS, "*.json")
    for file in sorted(reference.model_folder.iterdir()):
        if file.name in _LEFT_BEHIND or file.name.endswith(index_name("")) or file.is_dir():
            continue
        if any(fnmatch(file.name, pattern) for pattern in wanted) and has_file(file):
            shutil.copyfile(file, building / file.name)
    templates = reference.model_folder / "additional_chat_templates"
    if templates.is_dir():
        (building / templates.name).mkdir()
        for file in sorted(templates.glob("*.jinja")):
            shutil.copyfile(file, building / templates.name / file.name)


def _config(reference: Checkpoint, dtype: str | None) -> dict[str, Any] | None:
    """The reference's config.json, where it has one, for weights of this dtype."""
    if not (reference.model_folder / CONFIG).is_file():
        return None
    # other libraries than transformers do not keep the dtype there
    return _with_dtype(reference.config, dtype) if reference.is_transformers else reference.config


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
