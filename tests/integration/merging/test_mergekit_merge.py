"""Merge configs of mergekit from file to folder: slices, modules, heads, documents, refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapter_zoo
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import random_llama, save
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

from merging.errors import CheckpointError, MergeError
from merging.mergekit.prepare import prepare
from merging.mergekit.read import read_configs
from merging.mergekit.write import merge_file

Merge = Callable[[str], Path]


@pytest.fixture
def place(zoo: Path, tmp_path: Path) -> Path:
    """A folder of its own in which the zoo's models can be named by their names."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for model in ("base", "reverse", "sort", "add"):
        (folder / model).symlink_to(zoo / model)
    return folder


@pytest.fixture
def merge(place: Path) -> Merge:
    """Carry out a config, given as text."""

    def carry_out(text: str) -> Path:
        config = place / "config.yml"
        config.write_text(text)
        merge_file(read_configs(config), place / "merged", lambda _: None)
        return place / "merged"

    return carry_out


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def average(**weights: float) -> str:
    """A config that averages whole models."""
    models = [f"{{model: {name}, parameters: {{weight: {weight}}}}}" for name, weight in weights.items()]
    return f"merge_method: linear\nmodels: [{', '.join(models)}]\n"


STACK = """
merge_method: passthrough
slices:
- sources: [{model: reverse, layer_range: [0, 2]}]
- sources: [{model: sort, layer_range: [1, 2]}]
- sources: [{model: add, layer_range: [0, 1]}]
"""


def test_slices_stack_layers_of_several_models(merge: Merge, zoo: Path) -> None:
    merged = merge(STACK)
    made, reverse, sort, add = (tensors(folder) for folder in (merged, zoo / "reverse", zoo / "sort", zoo / "add"))
    name = "model.layers.{}.mlp.up_proj.weight"
    for layer, (model, number) in enumerate([(reverse, 0), (reverse, 1), (sort, 1), (add, 0)]):
        assert torch.equal(made[name.format(layer)], model[name.format(number)])
    assert torch.equal(made["model.embed_tokens.weight"], reverse["model.embed_tokens.weight"])
    assert torch.equal(made["lm_head.weight"], add["lm_head.weight"])
    assert config_of(merged)["num_hidden_layers"] == 4
    assert (merged / "mergekit_config.yml").read_text() == STACK
    provenance = json.loads((merged / "mergeopt_provenance.json").read_text())
    assert list(provenance["sources"]) == ["reverse", "sort", "add"]
    assert STACK.strip() in (merged / "README.md").read_text()
    assert AutoModelForCausalLM.from_pretrained(merged).config.num_hidden_layers == 4


def test_lists_with_an_entry_for_each_layer_follow_the_layers(merge: Merge, place: Path, zoo: Path) -> None:
    for name, kinds in (("reverse", ["a", "b"]), ("sort", ["c", "d"]), ("add", ["e", "f"])):
        (place / name).unlink()
        shutil.copytree(zoo / name, place / name)
        config = config_of(place / name) | {"layer_types": kinds, "eos_token_id": [1, 2, 3]}
        (place / name / "config.json").write_text(json.dumps(config))
    config = config_of(merge(STACK))
    assert config["layer_types"] == ["a", "b", "d", "e"]
    assert config["eos_token_id"] == [1, 2, 3]


def test_the_saved_dtype_is_the_configs_and_arithmetic_is_not(merge: Merge, zoo: Path) -> None:
    made = tensors(merge(average(reverse=1, sort=2) + "dtype: bfloat16\nout_dtype: float16\n"))
    one, other = tensors(zoo / "reverse"), tensors(zoo / "sort")
    name = "model.layers.0.mlp.up_proj.weight"
    assert made[name].dtype == torch.float16
    assert torch.equal(made[name], ((one[name].float() + other[name].float() * 2) / 3).half())


def test_an_untied_head_is_kept_where_another_model_ties_its(merge: Merge, place: Path) -> None:
    save(random_llama(seed=7, tied=True), place / "tied")
    merged = merge(average(tied=1, sort=3))
    embeddings, head = tensors(place / "tied")["model.embed_tokens.weight"], tensors(place / "sort")["lm_head.weight"]
    expected = (embeddings.float() + head.float() * 3) / 4
    assert torch.allclose(tensors(merged)["lm_head.weight"].float(), expected, atol=1e-2)
    assert config_of(merged)["tie_word_embeddings"] is False
    model = AutoModelForCausalLM.from_pretrained(merged)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_modules_are_sliced_each_by_itself(merge: Merge, place: Path) -> None:
    for seed, name in enumerate(("t5-a", "t5-b")):
        torch.manual_seed(seed)
        config = T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_decoder_layers=3, num_heads=2)
        T5ForConditionalGeneration(config).save_pretrained(place / name)
    merged = merge(
        """
merge_method: linear
parameters: {weight: 1}
modules:
  encoder: {models: [{model: t5-a}, {model: t5-b}]}
  decoder:
    slices:
    - sources: [{model: t5-a, layer_range: [0, 1]}, {model: t5-b, layer_range: [0, 1]}]
    - sources: [{model: t5-b, layer_range: [2, 3]}]
  shared: {models: [{model: t5-a, parameters: {weight: 1}}, {model: t5-b, parameters: {weight: 0}}]}
"""
    )
    made, a, b = tensors(merged), tensors(place / "t5-a"), tensors(place / "t5-b")
    name = "decoder.block.{}.layer.2.DenseReluDense.wo.weight"
    assert torch.allclose(made[name.format(0)], (a[name.format(0)] + b[name.format(0)]) / 2)
    assert torch.equal(made[name.format(1)], b[name.format(2)])
    assert name.format(2) not in made
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    assert torch.allclose(made[name], (a[name] + b[name]) / 2)
    assert torch.equal(made["shared.weight"], a["shared.weight"])
    assert (config_of(merged)["num_layers"], config_of(merged)["num_decoder_layers"]) == (2, 2)
    assert T5ForConditionalGeneration.from_pretrained(merged).config.num_decoder_layers == 2


def test_merges_of_one_file_are_made_from_each_other(merge: Merge, place: Path, zoo: Path) -> None:
    merged = merge(
        """
name: half
merge_method: linear
models: [{model: reverse, parameters: {weight: 1}}, {model: sort, parameters: {weight: 1}}]
dtype: float32
---
merge_method: task_arithmetic
base_model: base
models: [{model: half, parameters: {weight: 2}}]
dtype: float32
"""
    )
    base, reverse, sort = (tensors(zoo / name) for name in ("base", "reverse", "sort"))
    name = "model.layers.1.self_attn.q_proj.weight"
    expected = base[name].float() + 2 * ((reverse[name].float() + sort[name].float()) / 2 - base[name].float())
    assert torch.allclose(tensors(merged)[name], expected, atol=1e-6)
    assert [entry.name for entry in place.iterdir() if entry.name.startswith(".")] == []


def test_the_same_layer_may_be_merged_with_another_of_its_own_model(merge: Merge, zoo: Path) -> None:
    merged = merge(
        """
merge_method: linear
slices:
- sources:
  - {model: sort, layer_range: [0, 1], parameters: {weight: 1}}
  - {model: sort, layer_range: [1, 2], parameters: {weight: 3}}
dtype: float32
"""
    )
    sort, name = tensors(zoo / "sort"), "model.layers.{}.mlp.up_proj.weight"
    expected = (sort[name.format(0)].float() + 3 * sort[name.format(1)].float()) / 4
    assert torch.allclose(tensors(merged)[name.format(0)], expected, atol=1e-6)


def test_a_whole_model_behind_the_plus_is_refused(merge: Merge) -> None:
    with pytest.raises(CheckpointError, match=r"base\+sort: an adapter must stand behind the `\+`"):
        merge("merge_method: linear\nmodels: [{model: base+sort, parameters: {weight: 1}}]\n")


@pytest.mark.parametrize("written", ["llama+lora", "lora"])
def test_an_adapter_counts_as_the_model_that_it_makes_of_its_base(written: str, merge: Merge, place: Path) -> None:
    model = adapter_zoo.llama()
    base = adapter_zoo.save_base(model, place / "llama")
    folder = adapter_zoo.adapter(model, peft.LoraConfig(r=2, target_modules=adapter_zoo.ATTENTION), place / "lora")
    models = f"[{{model: {written}, parameters: {{weight: 0.5}}}}]"
    made = tensors(merge(f"merge_method: task_arithmetic\nbase_model: llama\nmodels: {models}\ndtype: float32\n"))
    tuned, origin = adapter_zoo.merged_by_peft(model, folder), tensors(base)
    for name in made:
        expected = (origin[name].float() + tuned[name]) / 2
        assert torch.allclose(made[name], expected, atol=1e-6), name


def test_a_chat_template_is_set_by_name_by_text_or_by_most(merge: Merge, place: Path) -> None:
    text = "merge_method: passthrough\nmodels: [{model: sort}]\n"
    assert "<|im_start|>" in (merge(text + "chat_template: chatml\n") / "chat_template.jinja").read_text()
    shutil.rmtree(place / "merged")
    own = "{{ messages }} and so on, and so on"
    assert (merge(text + f"chat_template: '{own}'\n") / "chat_template.jinja").read_text() == own
    shutil.rmtree(place / "merged")
    assert "messages[0]" in (merge(text + "chat_template: auto\n") / "chat_template.jinja").read_text()


def test_the_module_default_is_the_whole_model(merge: Merge, place: Path) -> None:
    layout = "{model: sort, parameters: {weight: [0.2, 0.8]}}, {model: add, parameters: {weight: 0.5}}"
    whole = tensors(merge(f"merge_method: linear\nmodels: [{layout}]\n"))
    shutil.rmtree(place / "merged")
    module = tensors(merge(f"merge_method: linear\nmodules: {{default: {{models: [{layout}]}}}}\n"))
    assert whole.keys() == module.keys()
    assert all(torch.equal(whole[name], module[name]) for name in whole)
    shutil.rmtree(place / "merged")
    slices = "[{sources: [{model: sort, layer_range: [1, 2]}]}]"
    cut = merge(f"merge_method: passthrough\nmodules: {{default: {{slices: {slices}}}}}\n")
    assert config_of(cut)["num_hidden_layers"] == 1
    first, second = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(tensors(cut)[first], tensors(place / "sort")[second])


def test_masks_do_not_depend_on_where_models_lie(merge: Merge, tmp_path: Path, zoo: Path) -> None:
    text = (
        "merge_method: dare_linear\nbase_model: base\nparameters: {weight: 0.5, density: 0.5}\n"
        "models: [{model: reverse}, {model: sort}]\n"
    )
    first = tensors(merge(text))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(zoo, elsewhere)
    (elsewhere / "config.yml").write_text(text)
    merge_file(read_configs(elsewhere / "config.yml"), elsewhere / "merged", lambda _: None)
    second = tensors(elsewhere / "merged")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "merge_method: passthrough\nslices: [{sources: [{model: sort, layer_range: [1, 3]}]}]",
            "`layer_range` must stay within the layers 0 to 1 of sort",
        ),
        (
            "merge_method: linear\nmodels: [{model: sort, parameters: {weight: 1}}, {model: add}]",
            "`linear` needs a `weight` of add",
        ),
        ("merge_method: ties\nmodels: [{model: sort}, {model: add}]", "`ties` needs a base"),
        (
            "merge_method: ties\nbase_model: base\nparameters: {weight: 1}\n"
            "slices: [{sources: [{model: sort, layer_range: [0, 2]}, {model: add, layer_range: [0, 2]}]}]",
            "in slices list it among the sources",
        ),
        (
            "merge_method: slerp\nbase_model: base\nparameters: {t: 1}\nmodels: [{model: sort}, {model: add}]",
            "merges 1 model",
        ),
        ("merge_method: passthrough\nmodels: [{model: sort}, {model: add}]", "merges 1 model"),
        (
            "merge_method: model_stock\nbase_model: base\nmodels: [{model: sort}]",
            "merges at least 2 models beside the base",
        ),
        (
            "merge_method: della\nbase_model: base\nmodels: [{model: sort, parameters: {weight: 1, density: 0.1}}]",
            "density -/\\+ epsilon must be above 0",
        ),
        (
            "merge_method: ties\nbase_model: base\n"
            "models: [{model: sort, parameters: {weight: 1, density: [0.5, 1.5]}}]",
            r"`model.layers.1.*`density` must be above 0 and at most 1, but is 1.5",
        ),
        ("merge_method: passthrough\nmodels: [{model: nowhere}]", "nowhere: there is no such folder"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_the_reason(text: str, said: str, merge: Merge, place: Path) -> None:
    with pytest.raises((MergeError, CheckpointError), match=said):
        merge(text)
    assert not (place / "merged").exists()


def test_layers_of_unequal_kinds_are_refused(merge: Merge, place: Path, zoo: Path) -> None:
    (place / "sort").unlink()
    shutil.copytree(zoo / "sort", place / "sort")
    odd = tensors(zoo / "sort")
    odd["model.layers.1.mlp.gate.weight"] = odd.pop("model.layers.1.mlp.gate_proj.weight")
    save_file(odd, place / "sort" / "model.safetensors", metadata={"format": "pt"})
    slices = "[{sources: [{model: add, layer_range: [0, 1]}, {model: sort, layer_range: [1, 2]}]}]"
    with pytest.raises(
        MergeError, match=r"sort must have the tensors of add, but lacks `model.layers.1.mlp.gate_proj.weight`"
    ):
        merge(f"merge_method: linear\nparameters: {{weight: 1}}\nslices: {slices}\n")


def test_a_plan_reads_no_weights_and_says_what_goes_where(place: Path) -> None:
    config = place / "config.yml"
    config.write_text(
        "merge_method: slerp\nbase_model: base\nmodels: [{model: base}, {model: sort}]\nparameters: {t: [0.2, 0.6]}\n"
    )
    (read,) = read_configs(config).configs
    steps = {step.name: step for step in prepare(read, place).steps}
    at = steps["model.layers.1.mlp.up_proj.weight"].at
    assert at is not None
    assert (at.experts, at.row) == (("sort",), (0.6,))
    head = steps["lm_head.weight"].at
    assert head is not None
    assert head.row == (0.2,)
