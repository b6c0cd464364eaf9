"""Keep the directions of a method on a node's disk, made once and mapped by all its workers."""

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from merging.groups import is_merged
from merging.hash_cache import user_cache
from merging.materialize import Making
from merging.methods import METHODS
from merging.recipe import Recipe
from merging.sources import Sources

Directions = Callable[[str], list[Tensor]]
"""A tensor's name to the method's directions there, float32, backed by mapped files: never write to them."""

_SHARD = 512 << 20  # bytes of directions in memory while they are written
_INDEX = "index.json"
_MARGIN = 2 << 30  # bytes of the disk that are left alone


class KeptDirections:
    """The directions of recipes that differ in coefficients only, in a folder shared by the workers of a node.

    They are made when a structure is asked for the second time: a search that changes the structure with every trial
    would never read them again. Nothing is kept for methods whose directions are as cheap to make as to read, for
    sources without a fingerprint, or where they would not fit `most_bytes` and the free disk; the directions are then
    made for each merge. Those used longest ago make room for new ones.
    """

    def __init__(self, sources: Sources, folder: Path | None = None, most_bytes: int = 64 << 30) -> None:
        """`folder`: where directions are kept; `mergeopt/directions` in the user's cache where None."""
        self._sources = sources
        self._folder = folder or user_cache().parent / "directions"
        self._most = most_bytes
        self._asked: dict[str, int] = {}
        self._opened: tuple[str, Directions] | None = None

    def of(self, recipe: Recipe) -> Directions | None:
        """The recipe's directions where they are kept, None where they have to be made."""
        key = self._key(recipe)
        if key is None:
            return None
        if self._opened is not None and self._opened[0] == key:
            return self._opened[1]
        self._asked[key] = self._asked.get(key, 0) + 1
        directions = _open(self._folder / key, self._names(), len(recipe.experts))
        if directions is None and self._asked[key] > 1:
            directions = self._made(recipe, key)
        if directions is not None:
            self._opened = (key, directions)
        return directions

    def _key(self, recipe: Recipe) -> str | None:
        method = METHODS[recipe.method]
        models = [*([recipe.base] if recipe.base else []), *recipe.experts.values()]
        if not method.keeps_directions or any(model.fingerprint is None for model in models):
            return None
        structure = method.structure.model_validate(recipe.structure).model_dump(mode="json")
        content = [recipe.method, structure, recipe.seed, list(recipe.experts), [one.fingerprint for one in models]]
        content += [sorted(recipe.unmerged)] if recipe.unmerged else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def _names(self) -> list[str]:
        reference = self._sources.reference
        unmerged = self._sources.unmerged
        return [name for name in reference.names if reference.is_float(name) and is_merged(name, unmerged)]

    def _made(self, recipe: Recipe, key: str) -> Directions | None:
        """Made by one process; others that want the same wait for it."""
        shapes = self._sources.reference.shapes
        size = 4 * len(recipe.experts) * sum(math.prod(shapes[name]) for name in self._names())
        target = self._folder / key
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _alone(self._folder / f"{key}.lock"):
                found = _open(target, self._names(), len(recipe.experts))
                if found is not None:
                    return found
                shutil.rmtree(target, ignore_errors=True)  # damaged
                if not self._room_for(size):
                    return None
                self._write(recipe, target)
        except OSError:
            return None  # a disk that fails costs time, not the trial
        return _open(target, self._names(), len(recipe.experts))

    def _write(self, recipe: Recipe, target: Path) -> None:
        """Beside, then renamed: a folder of that name is whole."""
        beside = Path(tempfile.mkdtemp(dir=self._folder, prefix=f".{target.name}."))
        try:
            home: dict[str, str] = {}
            for number, shard in enumerate(self._shards(recipe)):
                file = f"{number}.safetensors"
                save_file(shard, beside / file)
                home |= dict.fromkeys(shard, file)
            (beside / _INDEX).write_text(json.dumps(home), encoding="utf-8")
            os.rename(beside, target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _shards(self, recipe: Recipe) -> Iterator[dict[str, Tensor]]:
        base, experts = self._sources.chosen(recipe)
        method, making = METHODS[recipe.method], Making(recipe, self._sources)
        shard: dict[str, Tensor] = {}
        size = 0
        for name in self._names():
            tuned = [expert.tensor(name) for expert in experts.values()]
            made = method.directions(base.tensor(name) if base is not None else None, tuned, making.place(name))
            for number, direction in enumerate(made):
                shard[_entry(name, number)] = direction.contiguous()
                size += direction.numel() * 4
            if size >= _SHARD:
                yield shard
                shard, size = {}, 0
        if shard:
            yield shard

    def _room_for(self, size: int) -> bool:
        """Whether so many bytes may be written, after removing what was used longest ago if need be."""
        if size > self._most:
            return False
        kept = sorted((one for one in self._folder.iterdir() if (one / _INDEX).is_file()), key=_last_used)
        sizes = {one: sum(file.stat().st_size for file in one.iterdir()) for one in kept}
        for oldest in kept:
            if sum(sizes.values()) + size <= self._most and self._free() >= size + _MARGIN:
                break
            shutil.rmtree(oldest, ignore_errors=True)  # who has it mapped keeps it until the end
            del sizes[oldest]
        return self._free() >= size + _MARGIN

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free


def _open(folder: Path, names: list[str], experts: int) -> Directions | None:
    """The directions in a folder; None where there are none, or not for every tensor."""
    try:
        home: dict[str, str] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        handles: dict[str, Any] = {
            file: safe_open(folder / file, framework="pt") for file in dict.fromkeys(home.values())
        }
        os.utime(folder / _INDEX)
    except (OSError, ValueError, SafetensorError):
        return None
    if any(_entry(name, number) not in home for name in names for number in range(experts)):
        return None

    def directions(name: str) -> list[Tensor]:
        entries = [_entry(name, number) for number in range(experts)]
        return [handles[home[entry]].get_tensor(entry) for entry in entries]

    return directions


def _entry(name: str, number: int) -> str:
    return f"{number}/{name}"


def _last_used(folder: Path) -> float:
    return (folder / _INDEX).stat().st_mtime


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Inside, no other process of this node is; a process that dies inside lets the next one in."""
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
