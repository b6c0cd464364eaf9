"""A tiny Llama and fine-tunes of it, as safetensors folders made once for the session."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_llama import random_llama, save, with_noise

EXPERTS = ("reverse", "sort", "add")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `base`, `reverse`, `sort` and `add`: bfloat16, one file each. Never write to them; see `copy_of`."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("zoo")
    base = random_llama(seed=0)
    save(base, root / "base")
    for seed, name in enumerate(EXPERTS, start=1):
        save(with_noise(base, seed), root / name)
    return root


@pytest.fixture
def copy_of(zoo: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the models that a test may damage."""

    def copy(name: str) -> Path:
        target = tmp_path / f"copy-of-{name}"
        shutil.copytree(zoo / name, target)
        return target

    return copy


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user cache of each test is its own, so that no test reads hashes another one left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mergeopt" / "hashes.json"
