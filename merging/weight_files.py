"""Find the weight files of a model folder, and refuse every layout that is not plain safetensors."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError

SUFFIX = ".safetensors"
_STEMS = ("model", "diffusion_pytorch_model")  # what transformers and diffusers call them, in this order
_SHARD = re.compile(r"-\d{5}-of-(\d{5})$")
_ADAPTERS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class WeightFiles:
    """The names of a folder's weight files, and the index (tensor to file) where it has one.

    `stem` is what their names begin with, `model` say; files and index of a copy are named after it.
    """

    stem: str
    files: tuple[str, ...]
    index: dict[str, str] | None


def index_name(stem: str) -> str:
    """The name of the index of files that begin with `stem`."""
    return f"{stem}{SUFFIX}.index.json"


def weight_files(folder: Path) -> WeightFiles:
    """The weight files of a model folder.

    One file comes before an index, as in transformers, and the names of transformers and diffusers before others; a
    file of another name must be the only one. Raises `CheckpointError`.
    """
    for stem in _STEMS:
        if (folder / f"{stem}{SUFFIX}").is_file():
            return WeightFiles(stem, (f"{stem}{SUFFIX}",), None)
        if (folder / index_name(stem)).is_file():
            return _indexed(folder, stem)
    indices = sorted(file.name for file in folder.glob(index_name("*")))
    if len(indices) == 1:
        return _indexed(folder, indices[0].removesuffix(index_name("")))
    files = sorted(file.name for file in folder.glob(f"*{SUFFIX}") if file.name not in _ADAPTERS)
    if len(files) != 1:
        raise CheckpointError(_nothing_to_read(folder, files))
    stem = files[0].removesuffix(SUFFIX)
    shard = _SHARD.search(stem)
    if shard and int(shard.group(1)) != 1:
        raise CheckpointError(
            f"{folder}: {files[0]} is one of {int(shard.group(1))} shards, but there is no index "
            f"({index_name('*')}); download the folder again."
        )
    return WeightFiles(_SHARD.sub("", stem), (files[0],), None)


def _indexed(folder: Path, stem: str) -> WeightFiles:
    at = folder / index_name(stem)
    index = _read_index(at)
    files = tuple(sorted(dict.fromkeys(index.values())))
    for file in files:
        # An index may come from a stranger, and a path in it would be followed out of the folder. Links are
        # followed: the Hub cache is made of them.
        if file != Path(file).name or file in ("", ".", "..") or "\\" in file:
            raise CheckpointError(f"{at}: a shard must be a file in the same folder, but is {file!r}.")
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: the index names {len(files)} shards, but {len(missing)} are missing, "
            f"first {missing[0]}; download the folder again."
        )
    return WeightFiles(stem, files, index)


def has_file(path: Path) -> bool:
    """Whether there is such a file. Raises `CheckpointError` where something else is in its place."""
    if os.path.isfile(path):
        return True
    if os.path.lexists(path):
        what = "a link that leads nowhere" if path.is_symlink() else "a folder"
        raise CheckpointError(f"{path}: must be a file, but is {what}; download the folder again.")
    return False


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `CheckpointError` naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, but holds {type(content).__name__}.")
    return content


def _read_index(file: Path) -> dict[str, str]:
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{file}: must have a `weight_map` from tensor to shard; it has none.")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{file}: the shard of `{tensor}` must be a file name, but is {shard!r}.")
    return weight_map


def _nothing_to_read(folder: Path, files: list[str]) -> str:
    """Why a folder with none or several of these weight files has nothing to merge."""
    if files:
        return (
            f"{folder}: a model's weights are one file, or several with an index ({index_name('*')}), but there are "
            f"{len(files)} and no index: {', '.join(files[:3])}{', ...' if len(files) > 3 else ''}. "
            "Put the one to merge into a folder of its own."
        )
    if any((folder / adapter).is_file() for adapter in _ADAPTERS):
        return (
            f"{folder}: holds a LoRA adapter, not a model. One that peft wrote, with its adapter_config.json, can be "
            "an expert beside its base; merge any other into its base first "
            "(peft: `model.merge_and_unload().save_pretrained(...)`)."
        )
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return (
            f"{folder}: only safetensors are read, because a pickle can run code, but the weights are in "
            f"{pickles[0]}. Convert once, in a place you trust it: "
            "`AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)`."
        )
    return f"{folder}: must hold model.safetensors or {index_name('model')}, or one file of another name, but has none."
