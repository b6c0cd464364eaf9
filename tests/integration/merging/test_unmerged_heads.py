"""Classifiers with heads of their own are merged below the head, and the head stays one model's."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import statistics_setting
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
)

from merging.checkpoint import fingerprint, open_checkpoint
from merging.compatibility import check_compatible
from merging.errors import CheckpointError, MergeError
from merging.folder import write_checkpoint
from merging.kept_directions import KeptDirections
from merging.live import LiveMerge
from merging.materialize import Sources, materialize
from merging.methods import METHODS
from merging.recipe import Recipe, Source
from merging.recipe_file import read_recipe
from merging.resident import load_into

HEAD = "score.weight"
SIZES = {"base": 2, "a": 3, "b": 5}


def gpt2(labels: int, seed: int, kind: Any = GPT2ForSequenceClassification, **config: Any) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 30, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0}
    return kind(GPT2Config(**{**sizes, "num_labels": labels, **config}))


def tuned(body: Any, model: Any, seed: int) -> Any:
    """A model whose body is near another one's: what fine-tuning leaves, with a head of its own."""
    generator = torch.Generator().manual_seed(seed)
    near = {
        name: value + 0.02 * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in body.state_dict().items()
    }
    getattr(model, model.base_model_prefix).load_state_dict(near)
    return model


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Folders `base`, `a` and `b`: classifiers of 2, 3 and 5 labels over bodies that are near each other."""
    base = gpt2(SIZES["base"], 0)
    base.save_pretrained(tmp_path / "base")
    for seed, name in enumerate(("a", "b"), start=1):
        tuned(base.transformer, gpt2(SIZES[name], seed), seed).save_pretrained(tmp_path / name)
    return tmp_path


def recipe_over(pool: Path, method: str = "task_arithmetic", **changes: Any) -> Recipe:
    """A recipe over the pool with another row for every merged group."""
    facts: dict[str, Any] = {
        "method": method,
        "base": Source(path=str(pool / "base")),
        "experts": {name: Source(path=str(pool / name)) for name in ("a", "b")},
        "coefficients": {},
        "structure": statistics_setting(method, {name: pool / name for name in ("a", "b")}, pool / "statistics"),
        "unmerged": ("head",),
        **changes,
    }
    plain = Recipe(**facts)
    count = len(METHODS[method].coefficients(tuple(plain.experts)))
    groups = Sources(plain).groups
    rows = {
        group.name: tuple(0.3 + 0.05 * number + 0.1 * position for position in range(count))
        for number, group in enumerate(groups)
    }
    return plain.model_copy(update={"coefficients": rows})


def made(recipe: Recipe) -> dict[str, Tensor]:
    return dict(materialize(recipe, Sources(recipe)))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("method", METHODS)
def test_the_body_is_merged_as_if_there_were_no_heads(pool: Path, method: str) -> None:
    """Thresholds over the whole model included."""
    found = made(recipe_over(pool, method))
    assert torch.equal(found.pop(HEAD), stored(pool / "base")[HEAD])
    for name in SIZES:
        rewrite(pool / name, {key: value for key, value in stored(pool / name).items() if key != HEAD})
    assert same(found, made(recipe_over(pool, method, unmerged=())))


@pytest.mark.parametrize("method", METHODS)
def test_the_resident_model_and_the_export_have_the_same_bits(pool: Path, tmp_path: Path, method: str) -> None:
    recipe = Sources(recipe_over(pool, method)).fingerprinted(recipe_over(pool, method))
    sources = Sources(recipe)
    resident = AutoModelForSequenceClassification.from_pretrained(sources.config_folder)
    live = LiveMerge(resident, sources, KeptDirections(sources, tmp_path / "kept"))
    for step in range(3):  # directions are kept from the second on
        group = list(recipe.coefficients)[step]
        row = (0.9, *recipe.coefficients[group][1:])
        recipe = recipe.model_copy(update={"coefficients": {**recipe.coefficients, group: row}})
        live.fill(recipe)
    write_checkpoint(recipe, sources, tmp_path / "out")
    exported = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert same(dict(resident.state_dict()), dict(exported.state_dict()))
    assert torch.equal(exported.score.weight, stored(pool / "base")[HEAD])
    assert exported.config.num_labels == SIZES["base"]


def test_without_a_base_the_first_expert_lends_the_head(pool: Path, tmp_path: Path) -> None:
    recipe = recipe_over(pool, "linear", base=None)
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert torch.equal(loaded.score.weight, stored(pool / "a")[HEAD])
    assert loaded.config.num_labels == SIZES["a"]


def test_a_base_without_a_head_and_without_its_prefix_is_read_under_the_experts_names(pool: Path) -> None:
    """As `gpt2` is on the Hub: the bare model, with the causal masks that old versions stored."""
    expected = made(recipe_over(pool))
    body = {name.removeprefix("transformer."): tensor for name, tensor in stored(pool / "base").items() if name != HEAD}
    body |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 16, 16).tril() for layer in range(2)}
    rewrite(pool / "base", body)
    recipe = recipe_over(pool)
    sources = Sources(recipe)
    found = made(recipe)
    assert torch.equal(found.pop(HEAD), stored(pool / "a")[HEAD])
    expected.pop(HEAD)
    assert same(found, expected)
    assert sources.base is not None
    base = open_checkpoint(Source(path=str(pool / "base")))
    assert fingerprint(sources.base) == fingerprint(base)  # that of the files, whatever the names
    resident = AutoModelForSequenceClassification.from_pretrained(sources.config_folder)
    load_into(resident, materialize(recipe, Sources(recipe)))
    assert resident.config.num_labels == SIZES["a"]


def test_a_base_with_the_head_of_a_language_model_lends_only_its_body(pool: Path) -> None:
    base = gpt2(2, 0, GPT2LMHeadModel, tie_word_embeddings=False)
    body = {key: value for key, value in stored(pool / "base").items() if key != HEAD}
    base.save_pretrained(pool / "base")
    rewrite(pool / "base", {**body, "lm_head.weight": base.lm_head.weight.detach().clone()})
    found = made(recipe_over(pool))
    assert "lm_head.weight" not in found
    assert torch.equal(found[HEAD], stored(pool / "a")[HEAD])


def test_a_pretrained_bert_goes_with_its_classifiers(tmp_path: Path) -> None:
    """Its head holds a norm, its norms have their first names, and its position ids are stored."""
    sizes: dict[str, Any] = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    base = BertForPreTraining(BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16))
    base.save_pretrained(tmp_path / "base")
    for seed, (name, labels) in enumerate({"a": 3, "b": 5}.items(), start=1):
        torch.manual_seed(seed)
        config = BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16, num_labels=labels)
        tuned(base.bert, BertForSequenceClassification(config), seed).save_pretrained(tmp_path / name)
    expected = made(recipe_over(tmp_path))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in stored(tmp_path / "base").items()
    }
    rewrite(tmp_path / "base", old | {"bert.embeddings.position_ids": torch.arange(16)[None]})
    recipe = recipe_over(tmp_path)
    assert same(made(recipe), expected)
    assert torch.equal(expected["classifier.weight"], stored(tmp_path / "a")["classifier.weight"])
    assert not torch.equal(
        expected["bert.embeddings.LayerNorm.weight"], stored(tmp_path / "a")["bert.embeddings.LayerNorm.weight"]
    )
    load_into(AutoModelForSequenceClassification.from_pretrained(tmp_path / "a"), materialize(recipe, Sources(recipe)))


def test_heads_that_differ_are_refused_with_the_way_out(pool: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1 differ: `score\.weight`.*`unmerged: \[head\]`"):
        Sources(recipe_over(pool).model_copy(update={"unmerged": ()}))


def test_a_body_that_differs_is_refused_all_the_same(pool: Path) -> None:
    tensors = stored(pool / "b")
    tensors["transformer.ln_f.weight"] = torch.ones(8)
    rewrite(pool / "b", tensors)
    with pytest.raises(CheckpointError, match=r"1 differ: `transformer\.ln_f\.weight`"):
        recipe_over(pool)


def test_a_base_whose_names_differ_by_more_than_a_prefix_is_refused(pool: Path) -> None:
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in stored(pool / "base").items()}
    del tensors["ln_f.bias"]
    rewrite(pool / "base", tensors)
    with pytest.raises(CheckpointError, match=r"lacks .* tensors"):
        recipe_over(pool)


def test_labels_and_classes_need_not_agree_where_the_head_is_left_out(pool: Path) -> None:
    sources = Sources(recipe_over(pool))
    models = [copy.copy(one) for one in sources.experts.values()]
    models[0].config["architectures"] = ["GPT2Model"]
    check_compatible(sources.reference, models, ("head",))
    with pytest.raises(CheckpointError, match="`architectures` must be"):
        check_compatible(sources.reference, models)


def test_the_head_is_cast_like_the_merged_tensors_and_must_stay_finite(pool: Path) -> None:
    recipe = recipe_over(pool, dtype="float16")
    assert {tensor.dtype for tensor in made(recipe).values()} == {torch.float16}
    tensors = stored(pool / "base")
    tensors[HEAD][0, 0] = 1e6
    rewrite(pool / "base", tensors)
    with pytest.raises(MergeError, match=r"`score\.weight` is not merged and must be finite, .* as float16"):
        made(recipe)


def test_opened_models_serve_recipes_that_leave_out_the_same(pool: Path) -> None:
    recipe = recipe_over(pool, "linear", base=None)
    sources = Sources(recipe)
    turned = recipe.model_copy(update={"experts": dict(reversed(recipe.experts.items()))})
    with pytest.raises(MergeError, match="the recipe would take them from"):
        list(materialize(turned, sources))
    with pytest.raises(MergeError, match="opened with `unmerged` \\['head'\\]"):
        sources.reference_of(recipe.model_copy(update={"unmerged": ()}))


def test_a_recipe_file_leaves_modules_out_and_comes_back_from_its_export(pool: Path, tmp_path: Path) -> None:
    file = pool / "recipe.yaml"
    models = "base: ./base\nexperts: {a: ./a, b: ./b}\n"
    file.write_text(f"method: task_arithmetic\n{models}weights: {{a: 0.5, b: 0.25}}\nunmerged: [head]\n")
    recipe = read_recipe(file)
    assert recipe.unmerged == ("head",)
    assert "head" not in recipe.coefficients
    folder = write_checkpoint(recipe, Sources(recipe), tmp_path / "out")
    assert read_recipe(folder / "mergeopt_recipe.json") == recipe
    assert json.loads((folder / "mergeopt_recipe.json").read_text())["unmerged"] == ["head"]
    assert "Not merged but taken from one model: head." in (folder / "README.md").read_text()
    file.write_text(f"method: task_arithmetic\n{models}weights: {{a: 0.5, b: 0.25}}\nunmerged: [hed]\n")
    with pytest.raises(ValueError, match="'hed'"):
        read_recipe(file)
