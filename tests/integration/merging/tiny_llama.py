"""A random two-layer Llama, small enough to build in every test run."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from merging.groups import groups_of
from merging.methods import METHODS
from merging.recipe import Recipe, Source

VOCAB = 48


def random_llama(seed: int, tied: bool = False) -> Any:
    """A LlamaForCausalLM with hidden size 32 and 2 layers, in bfloat16."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).to(torch.bfloat16)


def with_noise(model: Any, seed: int, scale: float = 0.01) -> Any:
    """A fine-tune of the model, near enough: the same weights plus noise."""
    tuned = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return tuned


def save(model: Any, folder: Path, shard: str = "5GB") -> Path:
    """The model as transformers writes it, with a small tokenizer.json beside it."""
    model.save_pretrained(folder, max_shard_size=shard)
    vocab = {f"token{number}": number for number in range(VOCAB)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return folder


def recipe_over(zoo: Path, method: str = "task_arithmetic", experts: int = 3, **changes: Any) -> Recipe:
    """A recipe over the zoo with another weight for every group and expert."""
    from merging.checkpoint import open_checkpoint

    base = Source(path=str(zoo / "base"))
    chosen = ("reverse", "sort", "add")[:experts]
    groups = groups_of(open_checkpoint(base).names)
    count = len(METHODS[method].coefficients(chosen))
    rows = {
        group.name: tuple(0.2 + 0.05 * number + 0.1 * position for position in range(count))
        for number, group in enumerate(groups)
    }
    facts: dict[str, Any] = {
        "method": method,
        "base": base,
        "experts": {name: Source(path=str(zoo / name)) for name in chosen},
        "coefficients": rows,
        "structure": statistics_setting(method, {name: zoo / name for name in chosen}, zoo / "statistics"),
    }
    return Recipe(**{**facts, **changes})


def statistics_setting(method: str, experts: Mapping[str, Path], folder: Path) -> dict[str, Any]:
    """For methods that need statistics of the experts, where some are that were drawn; nothing for others."""
    from merging.checkpoint import open_checkpoint
    from merging.statistics import expert_file, write_statistics

    if method not in ("regmean", "fisher"):
        return {}
    kind: Any = "gram" if method == "regmean" else "fisher"
    for seed, (name, place) in enumerate(experts.items()):
        file, generator = expert_file(folder, kind, name), torch.Generator().manual_seed(seed)
        if file.is_file():
            continue
        shapes = {one: shape for one, shape in open_checkpoint(Source(path=str(place))).shapes.items() if shape}
        if kind == "gram":
            inputs = {
                one: torch.randn(99, shape[1], generator=generator) for one, shape in shapes.items() if len(shape) == 2
            }
            found = {one: rows.T @ rows / len(rows) for one, rows in inputs.items()}
        else:
            found = {one: torch.rand(shape, generator=generator) for one, shape in shapes.items()}
        write_statistics(file, kind, "drawn", found)
    return {"statistics": str(folder)}
