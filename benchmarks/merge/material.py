"""Make a base and experts to merge: random weights in the shape of a Llama, never a whole model in memory."""

import json
from pathlib import Path

import torch

from merging.shards import Shards

EXPERTS = ("one", "two", "three")
_FULL = 1_100_048_384  # parameters at scale 1: TinyLlama's shape
_NOISE = 0.02  # an expert's distance from the base, relative
_PART = 1 << 22
_SHARD = 5_000_000_000


def shapes_of(parameters: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama with about so many parameters: narrower than TinyLlama, of as many layers."""
    scale = (parameters / _FULL) ** 0.5
    hidden, mlp = (max(64, round(size * scale / 64) * 64) for size in (2048, 5632))
    vocabulary = max(256, round(32000 * scale / 64) * 64)
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden // 8, hidden),
        "self_attn.v_proj": (hidden // 8, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for number in range(22):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return dict(sorted(shapes.items()))


def models(folder: Path, parameters: int) -> list[Path]:
    """The base and three experts, bfloat16, made where they are not there yet."""
    shapes = shapes_of(parameters)
    places = [folder / f"{parameters}" / name for name in ("base", *EXPERTS)]
    missing = [place for place in places if not (place / "config.json").is_file()]
    if missing:
        torch.set_num_threads(1)
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            for file in place.iterdir():
                file.unlink()
        _write(places, shapes)
    return places


def _write(places: list[Path], shapes: dict[str, tuple[int, ...]]) -> None:
    dtypes = dict.fromkeys(shapes, torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    base, *experts = (Shards(place, "model", shapes, dtypes, _SHARD) for place in places)
    with base:
        for expert in experts:
            expert.__enter__()
        for name, shape in shapes.items():
            size = torch.Size(shape).numel()
            for start in range(0, size, _PART):
                part = torch.randn(min(_PART, size - start), generator=generator).mul_(0.02)
                base.write(name, start, part.bfloat16())
                for expert in experts:
                    noise = torch.randn(part.shape, generator=generator).mul_(0.02 * _NOISE)
                    expert.write(name, start, noise.add_(part).bfloat16())
        for expert in experts:
            expert.__exit__(None, None, None)
    for place in places:
        (place / "config.json").write_text(json.dumps(_config(shapes), indent=2))


def _config(shapes: dict[str, tuple[int, ...]]) -> dict[str, object]:
    vocabulary, hidden = shapes["lm_head.weight"]
    mlp, _ = shapes["model.layers.0.mlp.up_proj.weight"]
    heads = hidden // 64
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": 22,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 8),
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
