"""A live model is filled in place, completely or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import random_llama, recipe_over
from torch import Tensor, nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, GPT2Model

from merging.materialize import MergeError, Sources, materialize
from merging.resident import load_into


def tensors_of(model: Any) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def stream(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return iter(sorted(tensors.items()))


def test_a_resident_model_holds_the_merged_values_in_its_own_dtype(zoo: Path) -> None:
    recipe = recipe_over(zoo)
    sources = Sources(recipe)
    model = random_llama(seed=9).float()
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    load_into(model, materialize(recipe, sources))
    for name, tensor in materialize(recipe, sources):
        assert torch.equal(model.state_dict()[name], tensor.float())
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_filling_again_leaves_nothing_of_the_recipe_before(zoo: Path) -> None:
    first, second = recipe_over(zoo), recipe_over(zoo, "ties")
    sources = Sources(first)
    model, fresh = random_llama(seed=9), random_llama(seed=8)
    load_into(model, materialize(first, sources))
    load_into(model, materialize(second, sources))
    load_into(fresh, materialize(second, sources))
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), fresh.parameters(), strict=True))


def test_a_name_the_model_lacks_is_refused() -> None:
    model = random_llama(seed=0)
    tensors = tensors_of(model) | {"model.layers.7.mlp.up_proj.weight": torch.zeros(2)}
    with pytest.raises(MergeError, match=r"has no place for 1 tensors \(`model\.layers\.7\.mlp"):
        load_into(model, stream(tensors))


def test_a_parameter_left_unfilled_is_refused() -> None:
    model = random_llama(seed=0)
    tensors = tensors_of(model)
    del tensors["model.norm.weight"]
    with pytest.raises(MergeError, match=r"left with 1 tensors \(`model\.norm\.weight`\)"):
        load_into(model, stream(tensors))


def test_another_shape_is_refused() -> None:
    model = random_llama(seed=0)
    tensors = tensors_of(model) | {"model.norm.weight": torch.zeros(1)}
    with pytest.raises(MergeError, match=r"`model\.norm\.weight` must have shape \(32,\), but has \(1,\)"):
        load_into(model, stream(tensors))


@pytest.mark.parametrize("dropped", ["lm_head.weight", "model.embed_tokens.weight"])
def test_a_tied_head_is_filled_by_its_embeddings_and_stays_tied(dropped: str) -> None:
    source, model = random_llama(seed=1, tied=True), random_llama(seed=2, tied=True)
    tensors = tensors_of(source)
    tensors.pop(dropped)
    load_into(model, stream(tensors))
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def gpt2(kind: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    return kind(GPT2Config(vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=2))


def test_a_checkpoint_of_the_bare_model_fills_one_with_a_head() -> None:
    bare, model = gpt2(GPT2Model, 0), gpt2(GPT2LMHeadModel, 1)
    load_into(model, stream(tensors_of(bare)))
    assert torch.equal(model.transformer.wte.weight, bare.wte.weight)
    assert torch.equal(model.lm_head.weight, bare.wte.weight)


def test_causal_masks_stored_by_old_versions_are_passed_over() -> None:
    model = gpt2(GPT2LMHeadModel, 0)
    tensors = tensors_of(model) | {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8)}
    load_into(model, stream(tensors))


def test_non_persistent_buffers_stored_in_the_file_are_passed_over() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))
            self.register_buffer("inv_freq", torch.ones(3), persistent=False)

    model = Rotary()
    load_into(model, stream({"weight": torch.ones(2), "inv_freq": torch.zeros(3)}))
    assert model.inv_freq.tolist() == [1.0, 1.0, 1.0]  # type: ignore[union-attr, operator]


def test_persistent_buffers_are_filled() -> None:
    model = nn.BatchNorm1d(3)
    tensors = tensors_of(model) | {"running_mean": torch.arange(3.0), "num_batches_tracked": torch.tensor(7)}
    load_into(model, stream(tensors))
    assert model.running_mean is not None
    assert model.running_mean.tolist() == [0.0, 1.0, 2.0]
    assert model.num_batches_tracked is not None
    assert model.num_batches_tracked.item() == 7


def test_an_encoder_is_filled_too() -> None:
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    source, model = BertModel(config), BertModel(config)
    load_into(model, stream(tensors_of(source)))
    assert all(torch.equal(one, other) for one, other in zip(source.parameters(), model.parameters(), strict=True))


def test_norms_named_as_in_old_checkpoints_are_found() -> None:
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    source, model = BertModel(config), BertModel(config)
    torch.nn.init.normal_(source.embeddings.LayerNorm.weight)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors_of(source).items()
    }
    load_into(model, stream(old))
    assert torch.equal(model.embeddings.LayerNorm.weight, source.embeddings.LayerNorm.weight)
