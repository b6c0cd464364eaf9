"""A model folder is opened whole or refused with the file named."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import random_llama, save

from merging.checkpoint import (
    Checkpoint,
    CheckpointError,
    dtype_bytes,
    file_hashes,
    fingerprint,
    hash_weights,
    open_checkpoint,
)
from merging.compatibility import check_tokenizers
from merging.recipe import Source

Copy = Callable[[str], Path]


def opened(folder: Path | str) -> Checkpoint:
    return open_checkpoint(Source(path=str(folder)))


def refusal(folder: Path | str) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(folder)
    return str(caught.value)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base once more, cut into several files."""
    folder = save(random_llama(seed=0), tmp_path_factory.mktemp("sharded") / "base", shard="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def test_names_shapes_and_dtypes_are_known_at_once(zoo: Path) -> None:
    base = opened(zoo / "base")
    stored = load_file(zoo / "base" / "model.safetensors")
    assert base.names == tuple(sorted(stored))
    assert base.shapes == {name: tuple(tensor.shape) for name, tensor in sorted(stored.items())}
    assert base.dtypes["model.norm.weight"] == "bfloat16"
    assert base.nbytes == sum(tensor.nbytes for tensor in stored.values())
    assert base.config["hidden_size"] == 32
    assert all(torch.equal(base.tensor(name), tensor) for name, tensor in stored.items())


def test_a_sharded_model_is_the_same_model(zoo: Path, sharded: Path) -> None:
    one, many = opened(zoo / "base"), opened(sharded)
    assert many.names == one.names
    assert all(torch.equal(one.tensor(name), many.tensor(name)) for name in one.names)
    assert fingerprint(one) == fingerprint(many)


def test_opening_twice_shares_memory_with_the_file(zoo: Path) -> None:
    base = opened(zoo / "base")
    name = base.names[0]
    assert base.tensor(name).data_ptr() == base.tensor(name).data_ptr()


def test_a_folder_that_is_not_there_is_refused() -> None:
    assert "no such folder" in refusal("./nowhere/at/all")


def test_a_file_in_place_of_a_folder_is_refused(zoo: Path) -> None:
    assert "must be a model folder, but is a file" in refusal(zoo / "base" / "config.json")


def test_a_revision_of_a_local_folder_is_refused(zoo: Path) -> None:
    with pytest.raises(CheckpointError, match="a revision belongs to a Hub id"):
        open_checkpoint(Source(path=str(zoo / "base"), revision="main"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "must hold model.safetensors or model.safetensors.index.json" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_and_never_opened(copy_of: Copy, name: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "sprung",)

    folder = copy_of("base")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap()))
    message = refusal(folder)
    assert "only safetensors are read" in message
    assert name in message
    assert "save_pretrained" in message
    assert not (tmp_path / "sprung").exists()


def test_an_adapter_is_told_from_a_model(copy_of: Copy) -> None:
    folder = copy_of("base")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    assert "LoRA adapter" in refusal(folder)


def test_a_folder_needs_no_config_to_be_opened(copy_of: Copy) -> None:
    folder = copy_of("base")
    (folder / "config.json").unlink()
    assert opened(folder).config == {}
    assert file_hashes(opened(folder)).keys() == {"model.safetensors"}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_what_stands_in_the_place_of_a_file_is_not_taken_for_its_absence(copy_of: Copy, zoo: Path, name: str) -> None:
    folder = copy_of("reverse")
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name}: must be a file, but is a folder"):
        check_tokenizers(opened(zoo / "base"), [opened(folder)])
    (folder / name).rmdir()
    (folder / name).symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=f"{name}: must be a file, but is a link that leads nowhere"):
        check_tokenizers(opened(zoo / "base"), [opened(folder)])


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_a_truncated_file_is_refused_by_name(copy_of: Copy, kept: int) -> None:
    file = copy_of("base") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file}: is not a whole safetensors file" in refusal(file.parent)


def test_a_corrupt_header_is_refused_by_name(copy_of: Copy) -> None:
    file = copy_of("base") / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[8:40] = b"\xff" * 32
    file.write_bytes(content)
    assert f"{file}: is not a whole safetensors file" in refusal(file.parent)


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> Path:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return save(random_llama(seed=0), tmp_path / "shards", shard="20KB")


def test_a_missing_shard_is_named(shards: Path) -> None:
    gone = sorted(shards.glob("*.safetensors"))[1]
    gone.unlink()
    assert f"1 are missing, first {gone.name}" in refusal(shards)


@pytest.mark.parametrize("shard", ["../base/model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "a\\b", ""])
def test_an_index_cannot_lead_out_of_the_folder(shards: Path, shard: str) -> None:
    edit_index(shards, lambda index: index.update({"model.norm.weight": shard}))
    assert f"a shard must be a file in the same folder, but is {shard!r}" in refusal(shards)


def test_an_index_that_names_a_tensor_its_shard_lacks_is_refused(shards: Path) -> None:
    edit_index(shards, lambda index: index.update({"model.extra.weight": index["model.norm.weight"]}))
    assert "names 1 tensors that their shards lack, first `model.extra.weight`" in refusal(shards)


def test_a_shard_with_tensors_the_index_does_not_know_is_refused(shards: Path) -> None:
    edit_index(shards, lambda index: index.pop("model.norm.weight"))
    assert "holds 1 tensors that the index does not put there, first `model.norm.weight`" in refusal(shards)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_refused(shards: Path, content: str) -> None:
    (shards / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(shards)


def test_quantized_weights_are_refused(copy_of: Copy) -> None:
    folder = copy_of("base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    assert "quantized" in refusal(folder)


def test_float8_tensors_are_refused(copy_of: Copy) -> None:
    folder = copy_of("base")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, folder / "model.safetensors")
    assert "`model.norm.weight` is stored as F8_E4M3" in refusal(folder)


def with_head(folder: Path, tie: bool | None, equal: bool) -> Path:
    """Store a head beside the embeddings, and let the config say `tie` about it."""
    tensors = load_file(folder / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embeddings.clone() if equal else embeddings + 1
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config if tie is None else config | {"tie_word_embeddings": tie}))
    return folder


@pytest.mark.parametrize(
    ("tie", "equal", "kept"), [(True, True, False), (None, True, False), (None, False, True), (False, True, True)]
)
def test_a_head_that_is_the_embeddings_again_is_dropped(
    copy_of: Copy, tie: bool | None, equal: bool, kept: bool
) -> None:
    checkpoint = opened(with_head(copy_of("base"), tie, equal))
    assert ("lm_head.weight" in checkpoint.names) is kept
    assert set(checkpoint.shapes) == set(checkpoint.dtypes) == set(checkpoint.names)


def test_a_head_that_is_tied_but_differs_is_refused(copy_of: Copy) -> None:
    message = refusal(with_head(copy_of("base"), tie=True, equal=False))
    assert "`lm_head.weight` and `model.embed_tokens.weight` differ" in message


def test_a_tied_model_has_one_fingerprint_with_and_without_its_second_copy(tmp_path: Path) -> None:
    plain = save(random_llama(seed=0, tied=True), tmp_path / "plain")
    double = with_head(save(random_llama(seed=0, tied=True), tmp_path / "double"), tie=True, equal=True)
    assert fingerprint(opened(plain)) == fingerprint(opened(double))


def test_a_fingerprint_sees_one_changed_bit(zoo: Path, copy_of: Copy) -> None:
    file = copy_of("base") / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert fingerprint(opened(file.parent)) != fingerprint(opened(zoo / "base"))


def test_a_fingerprint_sees_dtype_shape_and_name(tmp_path: Path) -> None:
    prints = []
    for number, (name, tensor) in enumerate(
        [
            ("a", torch.zeros(4)),
            ("b", torch.zeros(4)),
            ("a", torch.zeros(2, 2)),
            ("a", torch.zeros(4, dtype=torch.int32)),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_file({name: tensor}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        prints.append(fingerprint(opened(folder)))
    assert len(dict.fromkeys(prints)) == 4


def test_hashes_are_remembered_until_the_file_changes(copy_of: Copy, tmp_path: Path) -> None:
    folder, cache = copy_of("base"), tmp_path / "hashes.json"
    first = fingerprint(opened(folder), cache)
    entries = json.loads(cache.read_text())
    (entry,) = entries.values()
    entry["tensors"] = dict.fromkeys(entry["tensors"], "remembered")
    cache.write_text(json.dumps(entries))
    assert fingerprint(opened(folder), cache) != first  # it was not computed again
    file = folder / "model.safetensors"
    file.touch()
    assert fingerprint(opened(folder), cache) == first
    assert file_hashes(opened(folder), cache).keys() == {"config.json", "model.safetensors"}
    assert fingerprint(opened(folder), cache) == first


def test_hashes_that_are_taken_side_by_side_at_one_reading_are_the_same(
    zoo: Path, sharded: Path, tmp_path: Path
) -> None:
    models = [opened(zoo / "base"), opened(sharded)]
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    expected = [(fingerprint(one, alone), file_hashes(one, alone)) for one in models]
    hash_weights(models, 4, together)
    known = json.loads(together.read_text())
    assert len(known) == len(list(sharded.glob("*.safetensors"))) + 1
    assert all(entry == json.loads(alone.read_text())[file] for file, entry in known.items())
    assert [(fingerprint(one, together), file_hashes(one, together)) for one in models] == expected


def test_an_empty_tensor_and_metadata_are_hashed_as_the_bytes_they_are(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {"a": torch.zeros(0, 3), "b": torch.arange(5), "c": torch.tensor(1.5, dtype=torch.bfloat16)}
    save_file(tensors, file, metadata={"format": "pt"})
    (tmp_path / "config.json").write_text("{}")
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    expected = fingerprint(opened(tmp_path), alone), file_hashes(opened(tmp_path), alone)
    hash_weights([opened(tmp_path)], 1, together)
    assert (fingerprint(opened(tmp_path), together), file_hashes(opened(tmp_path), together)) == expected


@pytest.mark.parametrize("content", ["{", "[]", '{"x": 3}'])
def test_a_damaged_cache_is_started_again(zoo: Path, own_cache: Path, content: str) -> None:
    first = fingerprint(opened(zoo / "base"))
    own_cache.write_text(content)
    assert fingerprint(opened(zoo / "base")) == first
    assert len(json.loads(own_cache.read_text())) == 1


def test_a_cache_that_cannot_be_written_is_done_without(zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert fingerprint(opened(zoo / "base"), tmp_path / "file" / "hashes.json")


def test_file_hashes_are_those_of_sha256sum(zoo: Path) -> None:
    import subprocess

    found = file_hashes(opened(zoo / "base"))
    for name, digest in found.items():
        line = subprocess.run(["sha256sum", zoo / "base" / name], capture_output=True, text=True, check=True).stdout
        assert line.startswith(digest)


def test_progress_is_told_file_by_file(shards: Path) -> None:
    calls: list[tuple[int, int]] = []
    fingerprint(opened(shards), on_progress=lambda done, total: calls.append((done, total)))
    count = len(list(shards.glob("*.safetensors")))
    assert calls == [(number, count) for number in range(1, count + 1)]


def test_sizes_of_dtypes() -> None:
    assert [dtype_bytes(name) for name in ("float32", "bfloat16", "int64", "bool")] == [4, 2, 8, 1]
