"""A merge is written as it is made, several tensors at a time, and nobody can tell from the result."""

import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import recipe_over
from torch import Tensor

from merging.folder import write_checkpoint
from merging.layout import layout_of
from merging.materialize import MergeError, Sources, materialize, steps
from merging.methods import METHODS, At
from merging.methods.isotropic import ISO_C
from merging.recipe import Recipe, Source
from merging.step import Step
from merging.stream import stream

Copy = Callable[[str], Path]


def written(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, in sorted order."""
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return dict(sorted(tensors.items()))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_bits_depend_neither_on_threads_nor_on_the_size_of_files(
    zoo: Path, tmp_path: Path, method: str, threads: int
) -> None:
    recipe = recipe_over(zoo, method, METHODS[method].max_experts or 3)
    sources = Sources(recipe)
    expected = dict(materialize(recipe, sources))
    for size in (5_000_000_000, 20_000, 1):
        folder = write_checkpoint(
            recipe, sources, tmp_path / str(size), card_text="", max_shard_bytes=size, threads=threads
        )
        found = written(folder)
        assert list(found) == list(expected)
        assert all(found[name].dtype == tensor.dtype for name, tensor in expected.items())
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_steps_in_any_order_give_the_same_tensors(zoo: Path) -> None:
    recipe = recipe_over(zoo, "dare_ties")
    sources = Sources(recipe)
    found: dict[str, Tensor] = {}

    def keep(name: str, start: int, piece: Tensor) -> None:
        found.setdefault(name, torch.empty(shapes[name], dtype=piece.dtype)).view(-1)[start:][: len(piece)] = piece

    turned = steps(recipe, sources)[::-1]
    shapes = {step.name: step.shape for step in turned}
    stream(turned, keep, threads=1)
    assert all(torch.equal(found[name], tensor) for name, tensor in materialize(recipe, sources))


def test_of_two_merges_to_one_folder_the_second_is_refused_before_it_reads_anything(zoo: Path, tmp_path: Path) -> None:
    recipe, target = recipe_over(zoo), tmp_path / "out"
    under_way, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def wait(done: int, _total: int) -> None:
        if done == 3:
            under_way.set()
            assert go_on.wait(60)

    first = threading.Thread(
        target=lambda: write_checkpoint(recipe, Sources(recipe), target, on_progress=wait, threads=2)
    )
    first.start()
    try:
        assert under_way.wait(60)
        with pytest.raises(MergeError, match="another one is writing it"):
            write_checkpoint(recipe, Sources(recipe), target, on_progress=lambda done, _: calls.append(done))
    finally:
        go_on.set()
        first.join()
    assert calls == []
    expected = dict(materialize(recipe, Sources(recipe)))
    assert all(torch.equal(written(target)[name], tensor) for name, tensor in expected.items())
    assert not list(tmp_path.glob(".out*"))


def test_what_a_killed_merge_left_is_cleared_by_the_next(zoo: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.partial"
    (left / "additional_chat_templates").mkdir(parents=True)
    (left / "model-00001-of-00009.safetensors").write_bytes(b"half of it")
    recipe = recipe_over(zoo)
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out")
    assert [file.name for file in folder.glob("*.safetensors")] == ["model.safetensors"]
    assert not left.exists()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_disk_that_is_full_in_the_middle_leaves_nothing(zoo: Path, tmp_path: Path, threads: int) -> None:
    recipe = recipe_over(zoo)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(done: int, _total: int) -> None:
        if done == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))

    try:
        with pytest.raises(OSError, match="File too large"):
            write_checkpoint(recipe, Sources(recipe), tmp_path / "out", on_progress=fill_up, threads=threads)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["base", "sort"])
def test_a_model_with_broken_weights_is_named(zoo: Path, copy_of: Copy, tmp_path: Path, broken: str) -> None:
    folder = copy_of(broken)
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.1.mlp.up_proj.weight"][2, 3] = float("nan")
    save_file(stored, folder / "model.safetensors")
    recipe = recipe_over(zoo)
    source = Source(path=str(folder))
    if broken == "base":
        recipe = recipe.model_copy(update={"base": source})
    else:
        recipe = recipe.model_copy(update={"experts": {**recipe.experts, broken: source}})
    named = "the base" if broken == "base" else "`sort`"
    with pytest.raises(MergeError, match=rf"`model\.layers\.1\.mlp\.up_proj\.weight` must be finite .* in {named};"):
        write_checkpoint(recipe, Sources(recipe), tmp_path / "out", threads=2)
    assert not (tmp_path / "out").exists()


def empty_model(folder: Path, tensors: int, shape: tuple[int, ...]) -> None:
    """A model of zeros that takes no room on the disk."""
    layout = layout_of(
        {f"{number}.weight": shape for number in range(tensors)},
        dict.fromkeys((f"{number}.weight" for number in range(tensors)), torch.bfloat16),
    )
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as stream_:
        stream_.write(layout.header)
        stream_.truncate(layout.size)
    (folder / "config.json").write_text("{}")


def test_a_merge_takes_much_less_memory_than_the_model_has(tmp_path: Path) -> None:
    for name in ("base", "one", "two"):
        empty_model(tmp_path / name, tensors=24, shape=(2048, 4096))  # 384 MiB
    recipe = Recipe(
        method="task_arithmetic",
        base=Source(path=str(tmp_path / "base")),
        experts={name: Source(path=str(tmp_path / name)) for name in ("one", "two")},
        coefficients={"other": (0.5, 0.5)},
    )
    code = (
        "import sys; from pathlib import Path; from merging.recipe import Recipe; "
        "from merging.materialize import Sources; from merging.folder import write_checkpoint; "
        "status = lambda: Path('/proc/self/status').read_text(); "
        "taken = lambda: next(int(line.split()[1]) for line in status().splitlines() if line.startswith('RssAnon')); "
        "recipe = Recipe.model_validate_json(sys.stdin.read()); sources = Sources(recipe); "
        "seen = []; before = taken(); "
        "recipe = recipe.model_copy(update={'coefficients': {g.name: (0.5, 0.5) for g in sources.groups}}); "
        "write_checkpoint(recipe, sources, Path(sys.argv[1]), card_text='', threads=2, "
        "on_progress=lambda *_: seen.append(taken())); print(max(seen) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        input=recipe.model_dump_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 128 << 10  # KiB; the largest tensor has 16 MiB
    shutil.rmtree(tmp_path / "out")


def test_steps_that_need_whole_tensors_wait_for_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    models = [torch.randn(32, 48, generator=generator) for _ in range(3)]
    under_way: set[str] = set()
    most = []

    def step(name: str) -> Step:
        def base() -> Tensor:
            under_way.add(name)
            most.append(len(under_way))
            return models[0]

        at = At(name, ("a", "b"), (0.5, 0.5), ISO_C.structure())
        return Step(name, (32, 48), torch.float32, ISO_C, at, base, (lambda: models[1], lambda: models[2]))

    def write(name: str, _start: int, _piece: Tensor) -> None:
        under_way.discard(name)

    stream([step(str(number)) for number in range(12)], write, threads=4)
    assert len(most) == 12
    assert max(most) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_without_entries_is_no_trouble(method: str) -> None:
    chosen = METHODS[method]
    names = tuple("abc"[: chosen.max_experts or 3])
    empty = torch.empty(0, 4)
    at = At("x", names, (0.5,) * len(chosen.coefficients(names)), chosen.structure())
    made = Step("x", (0, 4), torch.float32, chosen, at, lambda: empty, tuple(lambda: empty for _ in names)).made()
    assert made.shape == (0, 4)


def test_a_merge_leaves_torch_as_many_threads_as_it_had(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        write_checkpoint(recipe, Sources(recipe), tmp_path / "out", threads=2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_there_is_refused(zoo: Path, tmp_path: Path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    recipe = recipe_over(zoo)
    with pytest.raises(MergeError, match="device"):
        write_checkpoint(recipe, Sources(recipe), tmp_path / "out", device=device)
    assert list(tmp_path.iterdir()) == []
