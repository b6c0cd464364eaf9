"""Families of transformers models go through the whole path: saved, opened, grouped, merged, filled in place."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from merging.materialize import MergeError, Sources, materialize
from merging.recipe import Recipe, Source
from merging.resident import load_into

SMALL = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA_LIKE = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": LLAMA_LIKE,
    "MistralForCausalLM": LLAMA_LIKE,
    "Qwen2ForCausalLM": {**LLAMA_LIKE, "tie_word_embeddings": True},
    "Qwen3ForCausalLM": {**LLAMA_LIKE, "tie_word_embeddings": True},
    "Gemma2ForCausalLM": LLAMA_LIKE,
    "GPTNeoXForCausalLM": {**SMALL, "intermediate_size": 32},
    "PhiForCausalLM": {**SMALL, "intermediate_size": 32},
    "OPTForCausalLM": {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16, "max_position_embeddings": 32},
    "FalconForCausalLM": SMALL,
    "BloomForCausalLM": {"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "GPT2LMHeadModel": {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16},
    "T5ForConditionalGeneration": {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2},
    "BertForMaskedLM": {**SMALL, "intermediate_size": 32, "max_position_embeddings": 32},
    "ViTForImageClassification": {
        **{key: value for key, value in SMALL.items() if key != "vocab_size"},
        "intermediate_size": 32,
        "image_size": 8,
        "patch_size": 4,
    },
}


def saved(family: str, settings: dict[str, Any], folder: Path) -> tuple[Any, Recipe]:
    """A random base and expert of a family on disk, and the recipe that is the expert."""
    kind = getattr(transformers, family)
    for seed, name in enumerate(("base", "expert")):
        torch.manual_seed(seed)
        kind(kind.config_class(**settings)).save_pretrained(folder / name)
    recipe = Recipe(
        method="task_arithmetic",
        base=Source(path=str(folder / "base")),
        experts={"expert": Source(path=str(folder / "expert"))},
        coefficients={},
    )
    rows = {group.name: (1.0,) for group in Sources(recipe).groups}
    return kind, recipe.model_copy(update={"coefficients": rows})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_merged_and_filled_in_place(family: str, tmp_path: Path) -> None:
    kind, recipe = saved(family, FAMILIES[family], tmp_path)
    sources = Sources(recipe)
    model, expert = kind.from_pretrained(tmp_path / "base"), kind.from_pretrained(tmp_path / "expert")
    load_into(model, materialize(recipe, sources))
    wanted = expert.state_dict()
    assert all(torch.allclose(tensor, wanted[name], atol=1e-6) for name, tensor in model.state_dict().items())
    assert {group.module for group in sources.groups} <= {"attention", "mlp", "norms", "embeddings", "head"}


def test_a_family_whose_experts_are_packed_while_loading_is_refused(tmp_path: Path) -> None:
    kind, recipe = saved("MixtralForCausalLM", {**LLAMA_LIKE, "num_local_experts": 2}, tmp_path)
    model = kind.from_pretrained(tmp_path / "base")
    with pytest.raises(MergeError, match="packs its weights while loading"):
        load_into(model, materialize(recipe, Sources(recipe)))
