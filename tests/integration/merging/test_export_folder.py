"""An exported model is complete or absent, and has the weights that were scored."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_llama import random_llama, recipe_over, save, with_noise
from transformers import AutoModelForCausalLM

from merging.checkpoint import fingerprint, open_checkpoint
from merging.errors import CheckpointError
from merging.folder import write_checkpoint
from merging.materialize import MergeError, Sources, materialize
from merging.methods import METHODS
from merging.recipe import Recipe, Source
from merging.resident import load_into


def leftovers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if ".partial" in entry.name]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 20_000])
def test_the_exported_model_is_bit_for_bit_the_scored_one(
    zoo: Path, tmp_path: Path, method: str, shard_bytes: int
) -> None:
    recipe = recipe_over(zoo, method, METHODS[method].max_experts or 3)
    resident = random_llama(seed=9)
    load_into(resident, materialize(recipe, Sources(recipe)))
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out", max_shard_bytes=shard_bytes)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    for (name, scored), (other, exported) in zip(
        sorted(resident.state_dict().items()), sorted(loaded.state_dict().items()), strict=True
    ):
        assert name == other
        assert torch.equal(scored, exported)


def test_shards_stay_under_their_limit_and_the_index_names_every_tensor(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo)
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out", max_shard_bytes=20_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)
    ]
    tensors = {}
    for file in files:
        shard = load_file(file)
        assert sum(tensor.nbytes for tensor in shard.values()) <= 20_000
        assert all(index["weight_map"][name] == file.name for name in shard)
        tensors |= shard
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
    assert set(tensors) == set(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


def test_the_folder_has_what_a_model_needs(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo)
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out", card_text="# My card\n")
    names = sorted(file.name for file in folder.iterdir())
    assert names == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "mergeopt_provenance.json",
        "mergeopt_recipe.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (folder / "README.md").read_text() == "# My card\n"
    assert (folder / "tokenizer.json").read_bytes() == (zoo / "base" / "tokenizer.json").read_bytes()
    assert Recipe.model_validate_json((folder / "mergeopt_recipe.json").read_text()) == recipe
    assert folder.stat().st_mode & 0o077 == 0o777 & ~current_umask() & 0o077


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_companion_that_a_link_only_names_is_not_left_out_silently(zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(zoo / "base", tmp_path / "base")
    (tmp_path / "base" / "generation_config.json").unlink()
    (tmp_path / "base" / "generation_config.json").symlink_to("nowhere")
    recipe = recipe_over(zoo, base=Source(path=str(tmp_path / "base")))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: must be a file, but is a link that leads now"):
        write_checkpoint(recipe, Sources(recipe), tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir() if "out" in one.name] == []


def test_code_of_a_parent_is_not_passed_on(zoo: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(zoo, tmp_path / "zoo")
    (tmp_path / "zoo" / "base" / "modeling_custom.py").write_text("print('hello')")
    recipe = recipe_over(tmp_path / "zoo")
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out")
    assert not list(folder.glob("*.py"))


def test_config_and_weights_agree_on_the_dtype(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo, dtype="float16")
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert json.loads((zoo / "base" / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(tensor.dtype == torch.float16 for tensor in load_file(folder / "model.safetensors").values())
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float16


def test_a_tied_model_stays_tied(tmp_path: Path) -> None:
    base = random_llama(seed=0, tied=True)
    for seed, name in enumerate(("base", "reverse", "sort", "add")):
        save(with_noise(base, seed) if seed else base, tmp_path / name)
    recipe = recipe_over(tmp_path)
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_an_export_can_be_opened_and_merged_again(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo)
    first = write_checkpoint(recipe, Sources(recipe), tmp_path / "first")
    second = write_checkpoint(recipe, Sources(recipe), tmp_path / "second", max_shard_bytes=10_000)
    prints = [fingerprint(open_checkpoint(Source(path=str(folder)))) for folder in (first, second)]
    assert prints[0] == prints[1]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_an_existing_target_is_refused_and_left_alone(zoo: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "out"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "elsewhere")
    recipe = recipe_over(zoo)
    with pytest.raises(MergeError, match="the target must not exist"):
        write_checkpoint(recipe, Sources(recipe), target)
    assert target.is_symlink() if kind == "link" else target.exists()
    assert leftovers(tmp_path) == []


def test_a_merge_that_fails_leaves_nothing(zoo: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(zoo / "sort", broken)
    stored = load_file(broken / "model.safetensors")
    stored["model.norm.weight"][0] = float("nan")
    save_file(stored, broken / "model.safetensors")
    recipe = recipe_over(zoo)
    recipe = recipe.model_copy(update={"experts": {**recipe.experts, "sort": Source(path=str(broken))}})
    with pytest.raises(MergeError, match=r"`model\.norm\.weight` must be finite"):
        write_checkpoint(recipe, Sources(recipe), tmp_path / "made" / "out", max_shard_bytes=10_000)
    assert list((tmp_path / "made").iterdir()) == []


def test_an_interrupt_leaves_nothing(zoo: Path, tmp_path: Path) -> None:
    recipe = recipe_over(zoo)

    def interrupt(done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(recipe, Sources(recipe), tmp_path / "out", on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_never_looks_like_a_model(zoo: Path, tmp_path: Path) -> None:
    """kill -9 in the middle: the target does not exist, and a second attempt succeeds."""
    recipe = recipe_over(zoo)
    code = (
        "import sys, time; from pathlib import Path; from merging.recipe import Recipe; "
        "from merging.materialize import Sources; from merging.folder import write_checkpoint; "
        "recipe = Recipe.model_validate_json(sys.stdin.read()); "
        "slow = lambda done, total: (print(done, flush=True), time.sleep(60 if done == 5 else 0)); "
        "write_checkpoint(recipe, Sources(recipe), Path(sys.argv[1]), on_progress=slow, max_shard_bytes=9000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(recipe.model_dump_json())
        process.stdin.close()
        while process.stdout.readline().strip() != "5":
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    write_checkpoint(recipe, Sources(recipe), tmp_path / "out")
    assert open_checkpoint(Source(path=str(tmp_path / "out"))).names


def test_progress_is_told_tensor_by_tensor(zoo: Path, tmp_path: Path) -> None:
    recipe, calls = recipe_over(zoo), []
    sources = Sources(recipe)
    write_checkpoint(recipe, sources, tmp_path / "out", on_progress=lambda *call: calls.append(call))
    count = len(sources.reference.names)
    assert calls == [(number, count) for number in range(1, count + 1)]
