"""Tiny models and merge configs that mergekit and we both carry out; run by itself, it records what mergekit makes.

    python tests/integration/merging/mergekit_cases.py

in an environment with mergekit 0.1.5 (it needs nothing of mergeopt) writes tests/data/mergekit/recorded.json: for every
config all weights of mergekit's result, float32, tensors in the order of their names, rows of embeddings in that of
their tokens.
"""

import base64
import json
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).resolve().parents[2] / "data" / "mergekit" / "recorded.json"
HIDDEN, INNER, LAYERS = 4, 5, 3
BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")

_THREE = """
models:
- {model: x, parameters: {weight: 0.5, density: [0.9, 0.3]}}
- {model: y, parameters: {weight: 0.3, density: [{filter: mlp, value: 0.4}, {value: 0.6}]}}
- {model: z, parameters: {weight: 0.4}}
"""
_TWO = """
models:
- {model: x, parameters: {weight: 0.3}}
- {model: y, parameters: {weight: 1}}
"""
_PLAIN = "models: [{model: x}, {model: y}, {model: z}]\n"
_TOKENS = """
models:
- {model: ta, parameters: {weight: 0.5}}
- {model: tb, parameters: {weight: 0.3}}
- {model: tc, parameters: {weight: 0.4}}
"""
CONFIGS = {
    "linear": """
merge_method: linear
models:
- {model: x, parameters: {weight: [0.2, 0.9, 0.1]}}
- {model: y, parameters: {weight: [{filter: mlp, value: 0.7}, {filter: lm_head, value: [2, 3]}, {value: 0.4}]}}
""",
    "linear slices": """
merge_method: linear
slices:
- sources:
  - {model: x, layer_range: [0, 2], parameters: {weight: [0, 1]}}
  - {model: y, layer_range: [1, 3], parameters: {weight: 1}}
- sources:
  - {model: y, layer_range: [0, 2], parameters: {weight: [3, 1]}}
  - {model: z, layer_range: [1, 3], parameters: {weight: 2}}
  parameters: {normalize: false}
""",
    "passthrough": """
merge_method: passthrough
slices:
- sources: [{model: x, layer_range: [0, 2]}]
- sources: [{model: y, layer_range: [0, 3], parameters: {scale: [{filter: down_proj, value: 0.5}, {value: 1}]}}]
""",
    "slerp": """
merge_method: slerp
base_model: base
slices:
- sources: [{model: base, layer_range: [0, 3]}, {model: far, layer_range: [0, 3]}]
parameters:
  t: [{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}, {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}, {value: 0.5}]
""",
    "task_arithmetic": f"merge_method: task_arithmetic\nbase_model: base\n{_TWO}"
    "parameters: {lambda: 0.8, normalize: true}",
    "ties": f"merge_method: ties\nbase_model: base\n{_THREE}",
    "ties unnormalized": f"merge_method: ties\nbase_model: base\n{_THREE}parameters: {{normalize: false, lambda: 1.3}}",
    "breadcrumbs": f"merge_method: breadcrumbs\nbase_model: base\n{_THREE}parameters: {{gamma: 0.1, normalize: true}}",
    "breadcrumbs_ties": f"merge_method: breadcrumbs_ties\nbase_model: base\n{_THREE}parameters: {{gamma: 0.1}}",
    "sce": f"merge_method: sce\nbase_model: base\n{_PLAIN}parameters: {{select_topk: [0.3, 0.9]}}",
    "model_stock": f"merge_method: model_stock\nbase_model: base\n{_PLAIN}",
    "nuslerp": f"merge_method: nuslerp\nbase_model: base\n{_TWO}",
    "nuslerp rows": f"merge_method: nuslerp\n{_TWO}parameters: {{nuslerp_flatten: false, nuslerp_row_wise: true}}",
    "multislerp": f"merge_method: multislerp\nbase_model: base\n{_THREE}",
    "karcher": f"merge_method: karcher\n{_PLAIN}",
    "nearswap": "merge_method: nearswap\nbase_model: base\nmodels: [{model: x}]\nparameters: {t: [0.001, 0.02]}",
    "arcee_fusion": "merge_method: arcee_fusion\nbase_model: base\nmodels: [{model: x}]",
    "ram": f"merge_method: ram\nbase_model: base\n{_PLAIN}parameters: {{epsilon: 0.01}}",
    "ramplus_tl": f"merge_method: ramplus_tl\nbase_model: base\n{_PLAIN}parameters: {{epsilon: 0.01}}",
    "tokens union": f"merge_method: linear\n{_TOKENS}tokenizer: {{source: union}}",
    "tokens named": f"""
merge_method: linear
base_model: ta
{_TOKENS}
tokenizer:
  source: union
  pad_to_multiple_of: 4
  tokens:
    <im>: {{source: tb}}
    ef: {{source: {{kind: zero}}}}
    gh: {{source: {{kind: model_token, model: tc, token: b}}, force: true}}
    <new>: {{source: {{kind: model_token, model: ta, token_id: 0}}}}
""",
}


def config_text(name: str) -> str:
    """mergekit computes in the dtype of a config: float32, so that it can be compared with."""
    return CONFIGS[name].strip() + "\ndtype: float32\n"


def make_models(folder: Path) -> None:
    """`base`, near it `x`, `y` and `z`, `far` from it; `ta`, `tb` and `tc` with tokens of their own.

    Weights come from a small generator in whole numbers, so that they are the same wherever they are made.
    """
    near = _weights(1, 6)
    _save(folder / "base", near, 6, _vocabulary(6))
    for seed, name in enumerate(("x", "y", "z"), start=2):
        noise = _weights(seed, 6)
        _save(folder / name, {key: value + noise[key] * 0.1 for key, value in near.items()}, 6, _vocabulary(6))
    _save(folder / "far", _weights(9, 6), 6, _vocabulary(6))
    _save(folder / "ta", _weights(11, 8), 8, {"a": 0, "b": 1, "ab": 2, "cd": 3}, ["<s>"])
    _save(folder / "tb", _weights(12, 6), 6, {"a": 0, "b": 1, "cd": 2, "ef": 3}, ["<s>", "<im>"])
    _save(folder / "tc", _weights(13, 6), 6, {"b": 0, "ab": 1, "a": 2, "gh": 3}, ["<im>", "<x>"])


def flattened(folder: Path) -> list[float]:
    """All weights of a result, in the order that is recorded."""
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    rows = [vocabulary[token] for token in sorted(vocabulary)]
    tensors = load_file(folder / "model.safetensors")
    flat = []
    for name in sorted(tensors):
        tensor = tensors[name]
        if name in BY_TOKEN:
            tensor = torch.cat([tensor[rows], tensor[max(rows) + 1 :]])
        flat += tensor.flatten().tolist()
    return flat


def recorded() -> dict[str, list[float]]:
    """What mergekit makes, by config."""
    content: dict[str, str] = json.loads(RECORDED.read_text())
    data = {name: base64.b85decode(text) for name, text in content.items()}
    return {name: list(struct.unpack(f"<{len(one) // 4}f", one)) for name, one in data.items()}


def _vocabulary(size: int) -> dict[str, int]:
    return {chr(ord("a") + number): number for number in range(size)}


def _weights(seed: int, vocabulary: int) -> dict[str, Any]:
    import torch

    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "lm_head.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        for name in ("q", "k", "v", "o"):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        for name in ("gate", "up"):
            shapes[f"{at}mlp.{name}_proj.weight"] = (INNER, HIDDEN)
        shapes[f"{at}mlp.down_proj.weight"] = (HIDDEN, INNER)
        for name in ("input", "post_attention"):
            shapes[f"{at}{name}_layernorm.weight"] = (HIDDEN,)
    state = seed * 7919 + 1
    found = {}
    for name, shape in sorted(shapes.items()):
        values = []
        for _ in range(torch.Size(shape).numel()):
            state = (state * 1103515245 + 12345) % 2**31
            values.append((state >> 8) / 2**22 - 1)
        found[name] = torch.tensor(values, dtype=torch.float32).reshape(shape)
    return found


def _save(folder: Path, weights: dict[str, Any], vocabulary: int, ids: dict[str, int], added: Any = ()) -> None:
    from safetensors.torch import save_file
    from tokenizers import AddedToken, Tokenizer, models

    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def _record() -> None:
    import os

    import torch
    import yaml
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    torch.set_num_threads(1)
    content = {}
    with tempfile.TemporaryDirectory() as place:
        make_models(Path(place))
        os.chdir(place)
        for name in CONFIGS:
            config = MergeConfiguration.model_validate(yaml.safe_load(config_text(name)))
            options = MergeOptions(write_model_card=False, quiet=True, random_seed=0, copy_tokenizer=True)
            run_merge(config, f"merged {name}", options)
            flat = flattened(Path(place) / f"merged {name}")
            content[name] = base64.b85encode(struct.pack(f"<{len(flat)}f", *flat)).decode()
    RECORDED.parent.mkdir(parents=True, exist_ok=True)
    RECORDED.write_text(json.dumps(content, indent=0) + "\n")


if __name__ == "__main__":
    sys.exit(_record())
