"""Find the weight files of a model folder, and refuse every layout that is not plain safetensors."""

import json
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def weight_files(folder: Path) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """The names of the weight files, and the index (tensor to file) where the folder has one.

    `model.safetensors` comes before an index, as in transformers. Raises `CheckpointError`.
    """
    if (folder / SINGLE).is_file():
        return (SINGLE,), None
    if not (folder / INDEX).is_file():
        raise CheckpointError(_nothing_to_read(folder))
    index = _read_index(folder)
    files = tuple(sorted(dict.fromkeys(index.values())))
    for file in files:
        # An index may come from a stranger, and a path in it would be followed out of the folder. Links are
        # followed: the Hub cache is made of them.
        if file != Path(file).name or file in ("", ".", "..") or "\\" in file:
            raise CheckpointError(f"{folder / INDEX}: a shard must be a file in the same folder, but is {file!r}.")
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: the index names {len(files)} shards, but {len(missing)} are missing, "
            f"first {missing[0]}; download the folder again."
        )
    return files, index


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `CheckpointError` naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, but holds {type(content).__name__}.")
    return content


def _read_index(folder: Path) -> dict[str, str]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX}: must have a `weight_map` from tensor to shard; it has none.")
    for tensor, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(f"{folder / INDEX}: the shard of `{tensor}` must be a file name, but is {file!r}.")
    return weight_map


def _nothing_to_read(folder: Path) -> str:
    if (folder / "adapter_model.safetensors").is_file():
        return (
            f"{folder}: holds a LoRA adapter, not a model; merge it into its base first "
            "(peft: `model.merge_and_unload().save_pretrained(...)`)."
        )
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return (
            f"{folder}: only safetensors are read, because a pickle can run code, but the weights are in "
            f"{pickles[0]}. Convert once, in a place you trust it: "
            "`AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)`."
        )
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    found = f" (it has {', '.join(others[:3])})" if others else ""
    return f"{folder}: must hold {SINGLE} or {INDEX}, but holds neither{found}."
