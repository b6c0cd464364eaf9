"""A merge in memory is a folder to whoever reads it, bit by bit the export, and leaves nothing behind."""

import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_llama import recipe_over

from merging.errors import MergeError
from merging.folder import write_checkpoint
from merging.live import LiveMerge
from merging.mapped import MappedTensors
from merging.materialize import Sources, merged_dtypes
from merging.recipe import Recipe

FILE = "model.safetensors"
ROOT = Path(__file__).parents[3]


def mapped(recipe: Recipe, sources: Sources) -> tuple[MappedTensors, LiveMerge]:
    tensors = MappedTensors(sources.reference.shapes, merged_dtypes(recipe, sources))
    return tensors, LiveMerge(tensors, sources)


def with_row(recipe: Recipe, group: str, value: float) -> Recipe:
    row = (value, *recipe.coefficients[group][1:])
    return recipe.model_copy(update={"coefficients": {**recipe.coefficients, group: row}})


def read(tensors: MappedTensors) -> dict[str, torch.Tensor]:
    with tensors.folder() as folder:
        return {name: tensor.clone() for name, tensor in load_file(folder / FILE).items()}


def assert_same_file(tensors: MappedTensors, export: Path) -> None:
    ours, theirs = read(tensors), load_file(export / FILE)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_every_fill_is_the_weight_file_of_an_export(zoo: Path, tmp_path: Path, method: str, dtype: str | None) -> None:
    recipe = recipe_over(zoo, method, dtype=dtype)
    sources = Sources(recipe)
    tensors, live = mapped(recipe, sources)
    for step, group in enumerate(("layer.0.mlp", "embeddings", "layer.1.attention")):
        recipe = with_row(recipe, group, 0.7)
        live.fill(recipe)
        assert_same_file(tensors, write_checkpoint(recipe, sources, tmp_path / str(step)))


def test_after_a_merge_that_failed_the_next_one_is_whole(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo, "task_arithmetic", dtype="float16")
    sources = Sources(recipe)
    tensors, live = mapped(recipe, sources)
    live.fill(recipe)
    with pytest.raises(MergeError, match="must be finite"):
        live.fill(with_row(recipe, "layer.1.mlp", 1e9))
    live.fill(recipe)
    assert_same_file(tensors, write_checkpoint(recipe, sources, tmp_path / "export"))


def test_tensors_of_every_size_and_dtype_are_found_again() -> None:
    shapes: dict[str, tuple[int, ...]] = {"one": (), "none": (0, 3), "odd": (3, 5), "flags": (7,), "counts": (2,)}
    dtypes = dict(zip(shapes, (torch.float32, torch.bfloat16, torch.bfloat16, torch.bool, torch.int64), strict=True))
    tensors = MappedTensors(shapes, dtypes)
    for name, tensor in tensors.state_dict().items():
        tensor.copy_(torch.arange(tensor.numel()).view(shapes[name]) + 1)
    found = read(tensors)
    for name, tensor in tensors.state_dict().items():
        assert (found[name].dtype, tuple(found[name].shape)) == (dtypes[name], shapes[name])
        assert torch.equal(found[name], tensor)
        assert tensor.data_ptr() % dtypes[name].itemsize == 0


def test_nothing_is_left_of_the_folder_or_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tensors = MappedTensors({"weight": (4,)}, {"weight": torch.float32})
    with tensors.folder() as folder:
        assert [file.name for file in folder.iterdir()] == [FILE]
    assert list(tmp_path.iterdir()) == []
    opened = len(os.listdir("/proc/self/fd"))
    del tensors
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < opened


READER = "import sys; from safetensors.torch import load_file; print(load_file(sys.argv[1])['weight'].tolist())"


def test_another_process_reads_what_was_written_last() -> None:
    tensors = MappedTensors({"weight": (3,)}, {"weight": torch.float32})
    for value in (1.5, 2.5):
        tensors.state_dict()["weight"].fill_(value)
        with tensors.folder() as folder:
            command = [sys.executable, "-c", READER, folder / FILE]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == str([value] * 3)


HOLDER = """
import time, torch
from merging.mapped import MappedTensors
tensors = MappedTensors({"weight": (3,)}, {"weight": torch.float32})
tensors.state_dict()["weight"].fill_(1)
with tensors.folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_behind_leads_nowhere(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as holder:
        assert holder.stdout is not None
        link = Path(holder.stdout.readline().strip()) / FILE
        assert load_file(link)["weight"].tolist() == [1, 1, 1]
        holder.kill()
    assert link.is_symlink()  # to nothing: the memory had no other name
    assert not link.exists()
