"""Models that do not fit each other are refused with the tensors named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from merging.compatibility import (
    check_compatible,
    check_tokenizers,
    mismatches,
    non_finite,
    tokenizer_mismatches,
)
from merging.recipe import Source
from merging.source_notes import config_notes

Copy = Callable[[str], Path]


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint(Source(path=str(folder)))


def changed(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Replace or remove tensors; `__` in a keyword stands for a dot."""
    stored = load_file(folder / "model.safetensors")
    for keyword, tensor in tensors.items():
        name = keyword.replace("__", ".")
        if tensor is None:
            del stored[name]
        else:
            stored[name] = tensor
    save_file(stored, folder / "model.safetensors")
    return folder


def test_fine_tunes_of_one_base_fit(zoo: Path) -> None:
    base, experts = opened(zoo / "base"), [opened(zoo / name) for name in ("reverse", "sort", "add")]
    assert mismatches(base, experts) == []
    check_compatible(base, experts)
    check_tokenizers(base, experts)


def test_experts_that_compute_with_other_settings_are_noted_with_both_values(zoo: Path, copy_of: Copy) -> None:
    base, folder = opened(zoo / "base"), copy_of("sort")
    assert config_notes(base, {"sort": opened(folder)}) == []
    config = json.loads((folder / "config.json").read_text())
    config |= {"rms_norm_eps": 0.5, "_name_or_path": "elsewhere", "use_cache": False, "attention_dropout": 0.3}
    config["rope_parameters"] = {**config["rope_parameters"], "rope_theta": 1e6}
    (folder / "config.json").write_text(json.dumps(config))
    (note,) = config_notes(base, {"add": opened(zoo / "add"), "sort": opened(folder)})
    assert note.startswith("`sort` was trained with other settings")
    assert "`rms_norm_eps` 0.5 (base: 1e-0" in note
    assert "`rope_parameters.rope_theta` 1000000.0 (base: " in note
    assert "use_cache" not in note
    assert "dropout" not in note
    assert mismatches(base, [opened(folder)]) == []


def test_missing_and_extra_tensors_are_named(zoo: Path, copy_of: Copy) -> None:
    expert = opened(changed(copy_of("sort"), model__norm__weight=None, score__weight=torch.zeros(2, 2)))
    missing, extra = mismatches(opened(zoo / "base"), [expert])
    assert "lacks 1 tensors (`model.norm.weight`)" in missing
    assert "has 1 tensors (`score.weight`) that" in extra


def test_other_shapes_are_shown_side_by_side(zoo: Path, copy_of: Copy) -> None:
    expert = opened(changed(copy_of("sort"), model__norm__weight=torch.zeros(16, dtype=torch.bfloat16)))
    with pytest.raises(CheckpointError, match=r"1 differ: `model\.norm\.weight` \(32,\) and \(16,\)"):
        check_compatible(opened(zoo / "base"), [expert])


def test_an_extended_vocabulary_is_recognised(zoo: Path, copy_of: Copy) -> None:
    rows = torch.zeros(50, 32, dtype=torch.bfloat16)
    folder = changed(copy_of("sort"), model__embed_tokens__weight=rows, lm_head__weight=rows + 1)
    (line,) = mismatches(opened(zoo / "base"), [opened(folder)])
    assert "(48, 32) and (50, 32)" in line
    assert "tokens were added" in line


@pytest.mark.parametrize(
    ("key", "value"), [("architectures", ["MistralForCausalLM"]), ("model_type", "mistral"), ("vocab_size", 99)]
)
def test_another_architecture_is_refused(zoo: Path, copy_of: Copy, key: str, value: object) -> None:
    folder = copy_of("sort")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    (line,) = mismatches(opened(zoo / "base"), [opened(folder)])
    assert f"`{key}` must be" in line
    assert repr(value) in line


def test_another_dtype_is_no_mismatch_but_whole_numbers_are(zoo: Path, copy_of: Copy) -> None:
    folder = changed(copy_of("sort"), model__norm__weight=torch.ones(32, dtype=torch.float32))
    assert mismatches(opened(zoo / "base"), [opened(folder)]) == []
    changed(folder, model__norm__weight=torch.ones(32, dtype=torch.int32))
    (line,) = mismatches(opened(zoo / "base"), [opened(folder)])
    assert "`model.norm.weight` is int32, but bfloat16 in" in line


def test_tokens_with_other_ids_are_named(zoo: Path, copy_of: Copy) -> None:
    folder = copy_of("sort")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["token3"], vocab["token4"] = 4, 3
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (line,) = tokenizer_mismatches(opened(zoo / "base"), [opened(zoo / "add"), opened(folder)])
    assert "2 tokens differ: 'token3' (3 and 4), 'token4' (4 and 3)" in line
    with pytest.raises(CheckpointError, match="must map tokens to the same ids"):
        check_tokenizers(opened(zoo / "base"), [opened(folder)])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_tensors_that_are_not_finite_are_found(zoo: Path, copy_of: Copy, value: float) -> None:
    weight = load_file(zoo / "sort" / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    weight[3, 5] = value
    expert = opened(changed(copy_of("sort"), model__layers__1__mlp__up_proj__weight=weight))
    calls: list[tuple[int, int]] = []
    assert non_finite(expert, lambda done, total: calls.append((done, total))) == ["model.layers.1.mlp.up_proj.weight"]
    assert calls[-1] == (len(expert.names), len(expert.names))
    assert non_finite(opened(zoo / "sort")) == []
