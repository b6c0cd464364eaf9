"""Write a merged adapter as a folder that `peft` loads."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.adapters.combine import Combined
from merging.adapters.files import OUTER, WEIGHTS, Adapter
from merging.adapters.settings import CONFIG_FILE, LoraSettings
from merging.errors import MergeError
from merging.recipe import DType

if TYPE_CHECKING:
    from torch import Tensor

RECIPE_FILE = "mergeopt_adapters.json"


def write_adapter(
    combined: Combined, adapters: Mapping[str, Adapter], recipe: Mapping[str, Any], folder: Path, dtype: DType
) -> None:
    """Weights, settings, recipe and card in `folder`, complete or absent.

    Raises `MergeError` where it exists, or a tensor is not finite in `dtype`; `OSError` where the disk fails.
    """
    import torch
    from safetensors.torch import save_file

    from merging.file_mode import as_new
    from merging.folder import complete_or_absent

    tensors = {}
    for name, tensor in _stored(combined):
        tensors[name] = tensor.to(getattr(torch, dtype)).contiguous()
        if not bool(torch.isfinite(tensors[name]).all()):
            raise MergeError(f"`{name}` must be finite, but holds NaN or infinity as {dtype}; use smaller weights.")
    settings = _settings(combined, list(adapters.values()), recipe)
    with complete_or_absent(folder) as building:
        save_file(tensors, building / WEIGHTS, metadata={"format": "pt"})
        as_new(building / WEIGHTS)
        (building / CONFIG_FILE).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (building / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
        (building / "README.md").write_text(_card(combined, adapters, settings, recipe), encoding="utf-8")


def _stored(combined: Combined) -> Iterator[tuple[str, "Tensor"]]:
    """Every tensor under the name that peft gives it."""
    for module, factors in combined.factors.items():
        for part, tensor in zip(combined.pairs[module], (factors.a, factors.b), strict=True):
            yield f"{OUTER}{module}.{part}" + ("" if "embedding" in part else ".weight"), tensor
    for module, bias in combined.biases.items():
        yield f"{OUTER}{module}.lora_B.bias", bias
    for module, scales in combined.scales.items():
        yield f"{OUTER}{module}.ia3_l", scales
    for name, tensor in combined.whole.items():
        module, _, kind = name.rpartition(".")
        # peft keeps what was there before under a name of its own where it adds factors
        wrapped = module in combined.factors or module in combined.scales
        yield f"{OUTER}{module}.base_layer.{kind}" if wrapped else f"{OUTER}{name}", tensor


def _settings(combined: Combined, adapters: Sequence[Adapter], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The first adapter's settings with what the merge changed: ranks, scales of 1, the modules of all adapters."""
    modules = [*combined.factors, *combined.scales]
    wholes = [adapter.config.get("modules_to_save") or [] for adapter in adapters]
    saved = [module for whole in wholes for module in ([whole] if isinstance(whole, str) else whole)]
    settings = dict(adapters[0].config) | {
        "target_modules": _targets(adapters, modules, "target_modules"),
        "modules_to_save": list(dict.fromkeys(saved)) or None,
        "exclude_modules": None,
        "inference_mode": True,
    }
    if recipe.get("base"):
        settings["base_model_name_or_path"] = recipe["base"]["path"]
    if not isinstance(adapters[0].settings, LoraSettings):
        forward = [module for module, scales in combined.scales.items() if scales.shape[-1] != 1]
        return settings | {"feedforward_modules": _targets(adapters, forward, "feedforward_modules")}
    ranks = {module: factors.rank for module, factors in combined.factors.items()}
    usual = max(Counter(ranks.values()).items(), key=lambda counted: (counted[1], counted[0]))[0] if ranks else 1
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    return settings | {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "use_rslora": False,
        "lora_dropout": 0.0,
        "lora_bias": bool(combined.biases),
        "bias": next((one.config["bias"] for one in adapters if one.config.get("bias", "none") != "none"), "none"),
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
    }


def _targets(adapters: Sequence[Adapter], modules: Sequence[str], key: str) -> list[str]:
    """What settings call these modules: as the adapters do where they list ends of names, else every name in full.

    Programs that serve adapters know the short names; full ones are for adapters that name some layers only.
    """
    configs = [adapter.config for adapter in adapters]
    partly = any(config.get("layers_to_transform") or config.get("exclude_modules") for config in configs)
    listed = [config[key] for config in configs if isinstance(config.get(key), list)]
    if partly or len(listed) < len(configs):
        return list(modules)
    return sorted(dict.fromkeys(name for names in listed for name in names))


def _card(
    combined: Combined, adapters: Mapping[str, Adapter], settings: Mapping[str, Any], recipe: Mapping[str, Any]
) -> str:
    from huggingface_hub import ModelCardData

    facts: dict[str, Any] = {"library_name": "peft", "tags": ["mergeopt", "merge"]}
    base = settings.get("base_model_name_or_path")
    if isinstance(base, str) and base and not Path(base).exists():
        facts["base_model"] = base
    weights = recipe["weights"] or {}
    shown = {name: f"{weights[name]:.6g}" if name in weights else f"by group, see {RECIPE_FILE}" for name in adapters}
    rows = "\n".join(
        f"| {name} | {one.source.shown(one.folder, one.from_hub)} | {shown[name]} |" for name, one in adapters.items()
    )
    cut = f", cut to rank {recipe['rank']}: {combined.total_error:.2%} of the change is lost" if recipe["rank"] else ""
    return (
        f"---\n{ModelCardData(**facts).to_yaml().strip()}\n---\n\n# Merged adapter\n\n"
        f"Merged by mergeopt: the weighted sum of {recipe['combine']}{cut}.\n\n"
        f"| name | adapter | weight |\n| --- | --- | --- |\n{rows}\n"
    )
