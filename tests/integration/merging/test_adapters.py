"""Adapters as experts: what is read is what peft merges, and what does not fit is refused by name."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub
import peft
import pytest
import torch
from adapter_zoo import ALL_LINEAR, ATTENTION, Convolutions, adapter, gpt2, llama, merged_by_peft, save_base
from safetensors.torch import load_file, save_file

from merging.adapters import adapter_notes, open_expert
from merging.adapters.settings import KNOWN
from merging.checkpoint import Checkpoint, CheckpointError, file_hashes, fingerprint, open_checkpoint
from merging.compatibility import check_compatible, check_tokenizers, non_finite
from merging.folder import write_checkpoint
from merging.materialize import materialize
from merging.recipe import Recipe, Source
from merging.sources import Sources

LORA = peft.LoraConfig
FILE = "adapter_model.safetensors"
KINDS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "lora": (llama, lambda: LORA(r=4, lora_alpha=8, target_modules=ALL_LINEAR)),
    "rslora": (llama, lambda: LORA(r=4, lora_alpha=8, use_rslora=True, target_modules=ATTENTION)),
    "patterns": (
        llama,
        lambda: LORA(
            r=4,
            lora_alpha=8,
            target_modules=ALL_LINEAR,
            rank_pattern={"layers.0.self_attn.q_proj": 2, "down_proj": 6},
            alpha_pattern={r"layers\.1\..*proj": 3},
        ),
    ),
    "modules_to_save": (llama, lambda: LORA(r=4, target_modules=ATTENTION, modules_to_save=["lm_head", "norm"])),
    "embeddings": (llama, lambda: LORA(r=4, target_modules=["embed_tokens", "q_proj"])),
    "head": (llama, lambda: LORA(r=4, target_modules=["lm_head"])),
    "tokens": (llama, lambda: LORA(r=4, target_modules=ATTENTION, trainable_token_indices=[3, 7, 40])),
    "dora": (llama, lambda: LORA(r=4, use_dora=True, target_modules=ALL_LINEAR)),
    "dora-embeddings": (llama, lambda: LORA(r=4, use_dora=True, target_modules=["embed_tokens", "v_proj"])),
    "ia3": (
        llama,
        lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ),
    "gpt2": (gpt2, lambda: LORA(r=4, fan_in_fan_out=True, target_modules=["c_attn", "c_proj", "c_fc"])),
    "gpt2-bias": (gpt2, lambda: LORA(r=4, lora_bias=True, fan_in_fan_out=True, target_modules=["c_attn", "c_fc"])),
    "gpt2-all-biases": (gpt2, lambda: LORA(r=4, bias="all", fan_in_fan_out=True, target_modules=["c_attn"])),
    "gpt2-dora": (gpt2, lambda: LORA(r=4, use_dora=True, fan_in_fan_out=True, target_modules=["c_attn", "c_proj"])),
    "gpt2-ia3": (
        gpt2,
        lambda: peft.IA3Config(
            target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True
        ),
    ),
    "convolutions": (Convolutions, lambda: LORA(r=4, target_modules=["wide", "point", "line", "last"])),
    "convolutions-dora": (Convolutions, lambda: LORA(r=4, use_dora=True, target_modules=["wide", "line"])),
}


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(Source(path=str(save_base(llama(), tmp_path / "base"))))


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return adapter(llama(), LORA(r=4, lora_alpha=8, target_modules=ATTENTION), tmp_path / "lora")


def opened(folder: Path, base: Checkpoint) -> Checkpoint:
    return open_expert(Source(path=str(folder)), base)


def refusal(folder: Path, base: Checkpoint | None) -> str:
    with pytest.raises(CheckpointError) as refused:
        open_expert(Source(path=str(folder)), base)
    return str(refused.value)


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The adapter with its tensors changed."""
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)
    return folder


def configured(folder: Path, **settings: Any) -> Path:
    """The adapter with other settings."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def a_recipe(tmp_path: Path, experts: dict[str, Path], weights: tuple[float, ...], **facts: Any) -> Recipe:
    sources = {name: Source(path=str(folder)) for name, folder in experts.items()}
    recipe = Recipe(
        method="task_arithmetic",
        base=Source(path=str(tmp_path / "base")),
        experts=sources,
        coefficients={},
        **facts,
    )
    rows = {group.name: weights for group in Sources(recipe).groups}
    return recipe.model_copy(update={"coefficients": rows})


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_reads_as_what_peft_merges(kind: str, tmp_path: Path) -> None:
    model, config = KINDS[kind][0](), KINDS[kind][1]()
    base = open_checkpoint(Source(path=str(save_base(model, tmp_path / "base"))))
    folder = adapter(model, config, tmp_path / "adapter")
    expert, wanted = opened(folder, base), merged_by_peft(model, folder)
    differing = 0
    for name in base.names:
        torch.testing.assert_close(expert.tensor(name), wanted[name], rtol=1e-5, atol=1e-6)
        assert expert.tensor(name).is_contiguous()
        differing += not torch.equal(expert.tensor(name), base.tensor(name))
    assert differing
    check_compatible(base, [expert])


def test_a_change_too_small_for_the_bases_dtype_is_not_lost(tmp_path: Path) -> None:
    model = llama()
    base = open_checkpoint(Source(path=str(save_base(model.to(torch.bfloat16), tmp_path / "base"))))
    name = "model.layers.0.self_attn.q_proj.weight"
    folder = changed(
        adapter(llama(), LORA(r=4, target_modules=ATTENTION), tmp_path / "lora"),
        lambda tensors: tensors.update({key: tensor * 1e-2 for key, tensor in tensors.items()}),
    )
    change = opened(folder, base).tensor(name) - base.tensor(name).float()
    tensors = load_file(folder / FILE)
    a, b = (tensors[f"base_model.model.{name.replace('weight', f'lora_{part}.weight')}"] for part in "AB")
    assert opened(folder, base).dtypes[name] == "float32"
    torch.testing.assert_close(change, 2 * b @ a, rtol=1e-2, atol=2e-8)


def test_reading_leaves_base_and_adapter_as_they_are(base: Checkpoint, lora: Path) -> None:
    expert = opened(lora, base)
    before = [fingerprint(base), fingerprint(expert)]
    first, again = ([expert.tensor(name).clone() for name in expert.names] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert [fingerprint(base), fingerprint(expert)] == before


def test_an_adapter_of_the_whole_model_fits_a_base_stored_without_its_head(tmp_path: Path) -> None:
    model = gpt2()
    base = open_checkpoint(Source(path=str(save_base(model.transformer, tmp_path / "base"))))
    assert "h.0.attn.c_attn.weight" in base.names
    folder = adapter(model, LORA(r=4, fan_in_fan_out=True, target_modules=["c_attn"]), tmp_path / "lora")
    wanted = merged_by_peft(model, folder)["transformer.h.0.attn.c_attn.weight"]
    torch.testing.assert_close(opened(folder, base).tensor("h.0.attn.c_attn.weight"), wanted, rtol=1e-5, atol=1e-6)


def test_square_weights_lie_as_the_others_where_the_settings_forgot_to_say(tmp_path: Path) -> None:
    model = gpt2()
    base = open_checkpoint(Source(path=str(save_base(model, tmp_path / "base"))))
    folder = adapter(model, LORA(r=4, fan_in_fan_out=True, target_modules=["c_attn", "c_proj"]), tmp_path / "lora")
    wanted = merged_by_peft(model, folder)
    expert = opened(configured(folder, fan_in_fan_out=False), base)
    for name in base.names:
        torch.testing.assert_close(expert.tensor(name), wanted[name], rtol=1e-5, atol=1e-6)


def test_a_tied_head_saved_beside_its_embeddings_is_no_tensor_more(tmp_path: Path) -> None:
    model = llama(tied=True)
    base = open_checkpoint(Source(path=str(save_base(model, tmp_path / "base"))))
    folder = adapter(model, LORA(r=4, target_modules=ATTENTION, modules_to_save=["embed_tokens"]), tmp_path / "lora")
    key = "base_model.model.model.embed_tokens.weight"
    changed(folder, lambda tensors: tensors.update({"base_model.model.lm_head.weight": tensors[key].clone()}))
    assert torch.equal(opened(folder, base).tensor("model.embed_tokens.weight"), load_file(folder / FILE)[key])
    changed(folder, lambda tensors: tensors["base_model.model.lm_head.weight"].mul_(2))
    assert "`lm_head.weight`" in refusal(folder, base)


def test_adapters_and_models_stand_side_by_side_in_a_recipe(tmp_path: Path, base: Checkpoint, lora: Path) -> None:
    save_base(llama(seed=3), tmp_path / "other")
    recipe = a_recipe(tmp_path, {"other": tmp_path / "other", "lora": lora}, (0.25, 0.5))
    made = dict(materialize(recipe, Sources(recipe)))
    other, expert = llama(seed=3).state_dict(), merged_by_peft(llama(), lora)
    for name in base.names:
        origin = base.tensor(name)
        wanted = origin + 0.25 * (other[name] - origin) + 0.5 * (expert[name] - origin)
        torch.testing.assert_close(made[name], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "slerp"])
def test_every_method_takes_an_adapter_as_the_model_it_makes(
    method: str, tmp_path: Path, base: Checkpoint, lora: Path
) -> None:
    second = adapter(llama(), LORA(r=2, target_modules=ALL_LINEAR), tmp_path / "second", seed=2)
    for name, folder in (("first", lora), ("second", second)):
        merged = llama()
        merged.load_state_dict(merged_by_peft(merged, folder))
        save_base(merged, tmp_path / "dense" / name)
    row = (0.4,) if method == "slerp" else (0.4, 0.7)
    made = []
    for folders in (
        {"first": lora, "second": second},
        {name: tmp_path / "dense" / name for name in ("first", "second")},
    ):
        recipe = a_recipe(tmp_path, folders, row).model_copy(update={"method": method})
        made.append(dict(materialize(recipe, Sources(recipe))))
    for name in base.names:
        # a sign or a threshold may fall the other way for an entry that is all but zero
        near = torch.isclose(made[0][name], made[1][name], rtol=1e-4, atol=1e-6)
        assert near.float().mean() > 0.999, name


@pytest.mark.usefixtures("base")
def test_a_merge_of_adapters_is_a_whole_model(tmp_path: Path, lora: Path) -> None:
    recipe = a_recipe(tmp_path, {"lora": lora}, (1.0,))
    sources = Sources(recipe)
    out = write_checkpoint(sources.fingerprinted(recipe), sources, tmp_path / "out")
    result = open_checkpoint(Source(path=str(out)))
    wanted = merged_by_peft(llama(), lora)
    for name in result.names:
        torch.testing.assert_close(result.tensor(name), wanted[name], rtol=1e-5, atol=1e-6)
    assert (out / "tokenizer.json").is_file()
    assert not (out / "adapter_config.json").exists()
    assert "adapter_model.safetensors" in (out / "README.md").read_text()


def test_the_fingerprint_is_that_of_adapter_settings_and_base(tmp_path: Path, base: Checkpoint, lora: Path) -> None:
    first = fingerprint(opened(lora, base))
    assert fingerprint(opened(configured(lora, base_model_name_or_path="elsewhere", revision="x"), base)) == first
    assert fingerprint(opened(configured(lora, lora_alpha=9), base)) != first
    configured(lora, lora_alpha=8)
    other = open_checkpoint(Source(path=str(save_base(llama(seed=9), tmp_path / "other"))))
    assert fingerprint(opened(lora, other)) != first
    changed(lora, lambda tensors: next(iter(tensors.values())).add_(1))
    assert fingerprint(opened(lora, base)) != first
    assert list(file_hashes(opened(lora, base))) == ["adapter_config.json", FILE]


def test_an_adapter_without_tokenizer_files_has_its_bases_tokens(base: Checkpoint, lora: Path) -> None:
    check_tokenizers(base, [opened(lora, base)])
    vocab = {f"token{number}": number + 1 for number in range(48)}
    (lora / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab}}))
    with pytest.raises(CheckpointError, match="must map tokens to the same ids"):
        check_tokenizers(base, [opened(lora, base)])


def test_another_base_in_its_settings_is_only_noted(base: Checkpoint, lora: Path) -> None:
    (note,) = adapter_notes({"math": opened(configured(lora, base_model_name_or_path="someone/else"), base)})
    assert "`math` says it was made for someone/else" in note
    assert not adapter_notes({"math": opened(configured(lora, base_model_name_or_path="org/base"), base), "base": base})


def test_a_setting_that_only_measures_something_unknown_is_noted(base: Checkpoint, lora: Path) -> None:
    before = fingerprint(opened(lora, base))
    expert = opened(configured(lora, brandnew_size=16, other_size=0, use_brandnew=False, brandnew_config=None), base)
    assert adapter_notes({"math": expert}) == [
        "the adapter `math` has `brandnew_size: 16`, which is not known here and has no effect."
    ]
    assert fingerprint(expert) == before


def test_every_setting_that_peft_writes_has_been_looked_at() -> None:
    written = [field.name for kind in (peft.LoraConfig, peft.IA3Config) for field in dataclasses.fields(kind)]
    assert [name for name in written if name not in KNOWN] == []


def test_an_adapter_without_a_base_is_refused(lora: Path) -> None:
    assert "name a `base`" in refusal(lora, None)
    with pytest.raises(CheckpointError, match="name a `base`"):
        Sources(Recipe(method="linear", experts={"lora": Source(path=str(lora))}, coefficients={}))


def test_a_truncated_adapter_is_refused(base: Checkpoint, lora: Path) -> None:
    content = (lora / FILE).read_bytes()
    (lora / FILE).write_bytes(content[:-100])
    assert "not a whole safetensors file" in refusal(lora, base)


def test_a_folder_with_settings_only_is_refused(base: Checkpoint, lora: Path) -> None:
    (lora / FILE).rename(lora / "adapter_model.bin")
    assert "a pickle can run code" in refusal(lora, base)


def test_a_factor_without_the_other_is_named(base: Checkpoint, lora: Path) -> None:
    key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    changed(lora, lambda tensors: tensors.pop(key))
    assert "`model.layers.1.self_attn.v_proj` must have `lora_A` and `lora_B`, but lacks `lora_B`" in refusal(
        lora, base
    )


def test_factors_of_different_ranks_are_named(base: Checkpoint, lora: Path) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    changed(lora, lambda tensors: tensors.update({key: tensors[key][:, :3].contiguous()}))
    message = refusal(lora, base)
    assert "`model.layers.0.self_attn.q_proj` must have rank 4, but have shapes (4, 32) and (32, 3)" in message


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rank_pattern", {"q_proj(": 8}, "must be a regular expression"),
        ("alpha_pattern", {"[": 8}, "must be a regular expression"),
        ("rank_pattern", {"(?i)q_proj": 8}, "must be a regular expression"),
        ("trainable_token_indices", {"embed(": [1]}, "must be a regular expression"),
        ("alpha_pattern", {"q_proj": float("nan")}, "the alpha `q_proj` must be finite"),
        ("lora_alpha", float("inf"), "finite"),
    ],
)
def test_settings_that_are_no_patterns_or_numbers_are_refused(
    base: Checkpoint, lora: Path, key: str, value: object, said: str
) -> None:
    file = lora / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=said):
        opened(lora, base)


def test_a_rank_other_than_the_settings_is_refused(base: Checkpoint, lora: Path) -> None:
    assert "must have rank 5" in refusal(configured(lora, r=5), base)


def test_modules_the_base_lacks_are_named(base: Checkpoint, lora: Path) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"

    def move(tensors: dict[str, Any]) -> None:
        for part in "AB":
            tensors[key.format(part).replace("layers.0", "layers.7")] = tensors.pop(key.format(part))

    message = refusal(changed(configured(lora, base_model_name_or_path="some/model"), move), base)
    assert "lacks: `model.layers.7.self_attn.q_proj.weight`" in message
    assert "made for `some/model`" in message


def test_shapes_of_another_model_are_named(base: Checkpoint, lora: Path) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    changed(lora, lambda tensors: tensors.update({key: torch.zeros(4, 16)}))
    assert "`model.layers.0.self_attn.q_proj.weight` is (32, 32)" in refusal(lora, base)


def test_nan_in_an_adapter_is_named(base: Checkpoint, lora: Path) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    changed(lora, lambda tensors: tensors[key][0].fill_(math.nan))
    expert = opened(lora, base)
    assert non_finite(expert) == [key]
    with pytest.raises(CheckpointError, match=r"q_proj\.lora_A"):
        expert.tensor("model.layers.0.self_attn.q_proj.weight")


def test_other_kinds_of_adapter_are_refused_with_those_that_are_read(base: Checkpoint, tmp_path: Path) -> None:
    folder = adapter(llama(), peft.LoHaConfig(r=4, target_modules=ATTENTION), tmp_path / "loha")
    message = refusal(folder, base)
    assert "LORA, IA3" in message
    assert "'LOHA'" in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layers are repeated"),
        ({"alora_invocation_tokens": [1, 2]}, "invocation tokens"),
        ({"use_dora": True}, "lacks `lora_magnitude_vector`"),
        ({"r": "many"}, "`r` must be a whole number, but is 'many'; save the adapter again with peft."),
        ({"lora_alpha": None}, "`lora_alpha` is missing; save the adapter again with peft."),
        ({"modules_to_save": 3}, "`modules_to_save` must be a name or a list of names, but is 3"),
        ({"target_modules": [1]}, "`target_modules` must be a name or a list of names, but is [1]"),
        ({"kasa_config": {"beta": 1}}, "lacks its smallest singular values"),
        ({"init_lora_weights": "milora"}, "was started by `milora`, which is not known here"),
        ({"use_brandnew": True}, "has `use_brandnew`, which is not known here"),
        ({"brandnew_config": {"power": 2}}, "has `brandnew_config`, which is not known here"),
    ],
)
def test_settings_under_which_factors_mean_something_else_are_refused(
    settings: dict[str, Any], words: str, base: Checkpoint, lora: Path
) -> None:
    assert words in refusal(configured(lora, **settings), base)


def test_tensors_that_are_no_known_part_are_named(base: Checkpoint, lora: Path) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_E"
    changed(lora, lambda tensors: tensors.update({key: torch.ones(4)}))
    assert key in refusal(lora, base)


def test_a_folder_with_a_models_weights_is_that_model(base: Checkpoint, lora: Path, tmp_path: Path) -> None:
    save_base(llama(seed=5), tmp_path / "both")
    (tmp_path / "both" / FILE).write_bytes((lora / FILE).read_bytes())
    (tmp_path / "both" / "adapter_config.json").write_text((lora / "adapter_config.json").read_text())
    assert opened(tmp_path / "both", base).overlay is None


def test_an_adapter_is_found_by_its_hub_id_while_offline(
    base: Checkpoint, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--lora"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text(commit)
    shutil.copytree(lora, repository / "snapshots" / commit)
    recipe = Recipe(
        method="task_arithmetic",
        base=base.source,
        experts={"lora": Source(path="someone/lora", revision="v1")},
        coefficients={},
    )
    expert = Sources(recipe).experts["lora"]
    assert expert.from_hub
    assert fingerprint(expert) == fingerprint(opened(lora, base))
