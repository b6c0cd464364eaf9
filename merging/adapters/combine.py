"""Merge adapters into one adapter, module by module, without a model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from merging.adapters.factors import Factors, factor_sum, product_sum, truncated
from merging.adapters.files import Adapter, few
from merging.adapters.settings import Ia3Settings, LoraSettings
from merging.checkpoint import Checkpoint
from merging.errors import MergeError

if TYPE_CHECKING:
    from torch import Tensor

Way = Literal["products", "factors"]
Rows = Callable[[str], Mapping[str, float]]
"""A tensor's name in the model to one weight for each adapter."""
_DENSELY = " merge them over their base instead, as experts of `mergeopt merge`."
_PLACES = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True, eq=False)
class Combined:
    """A merged adapter: `factors` of LoRA by module, `scales` of IA3, both float32, and what else it holds.

    `pairs` names the parts a module's factors are stored as, `biases` are LoRA's own, `whole` replaces tensors of the
    base. `error` is the Frobenius norm of what a cut to a lower rank lost by module, as a share of the change; it and
    `total_error`, over all modules, are empty and 0 where nothing was cut. `notes` say what is worth knowing of the
    adapters.
    """

    factors: dict[str, Factors] = field(default_factory=dict)
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    biases: dict[str, "Tensor"] = field(default_factory=dict)
    scales: dict[str, "Tensor"] = field(default_factory=dict)
    whole: dict[str, "Tensor"] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    total_error: float = 0.0
    notes: tuple[str, ...] = ()


def combine(
    adapters: Mapping[str, Adapter],
    rows: Rows,
    way: Way = "products",
    rank: int | None = None,
    base: Checkpoint | None = None,
) -> Combined:
    """The weighted sum of adapters, by the row of each tensor; a negative weight subtracts what the adapter does.

    `products` sums what the adapters change, exactly, at the sum of their ranks; `factors` sums A and B apart (see
    `merging.adapters.factors`). `rank` cuts every module's change to the nearest of that rank. IA3 sums the
    distances of its factors from 1, so that -1 gives 2 - l. Tensors that adapters hold whole are summed as their
    distances from `base`. Raises `MergeError` where the adapters do not go together.
    """
    _check(adapters, way, rank)
    modules = sorted(dict.fromkeys(module for adapter in adapters.values() for module in adapter.modules))
    combined = Combined(whole=_whole(adapters, rows, base))
    lost, all_of_it = 0.0, 0.0
    for module in modules:
        weights = _checked(adapters, rows, f"{module}.weight")
        having = [(adapter, weights[name]) for name, adapter in adapters.items() if module in adapter.modules]
        if isinstance(having[0][0].settings, Ia3Settings):
            combined.scales[module] = _scales(module, having)
            continue
        combined.pairs[module], factors = _factors(adapters, module, having, way)
        if rank is not None:
            near, left_out, before = truncated(factors, rank)
            if factors.rank > rank:
                factors, combined.error[module] = near, math.sqrt(left_out / before) if before else 0.0
            lost, all_of_it = lost + left_out, all_of_it + before
        combined.factors[module] = factors
        biases = [(adapter, weight) for adapter, weight in having if "lora_B.bias" in adapter.modules[module]]
        if biases:
            combined.biases[module] = _sum(
                [(_scaled(adapter, module, "lora_B.bias"), weight) for adapter, weight in biases]
            )
    return replace(combined, total_error=math.sqrt(lost / all_of_it) if all_of_it else 0.0)


def _check(adapters: Mapping[str, Adapter], way: Way, rank: int | None) -> None:
    kinds = {name: adapter.settings.peft_type for name, adapter in adapters.items()}
    first = next(iter(kinds))
    other = next((name for name, kind in kinds.items() if kind != kinds[first]), None)
    if other is not None:
        raise MergeError(f"`{first}` is {kinds[first]}, but `{other}` is {kinds[other]};{_DENSELY}")
    for name, adapter in adapters.items():
        if isinstance(adapter.settings, LoraSettings) and adapter.settings.use_dora:
            raise MergeError(f"`{name}` is a DoRA, whose magnitudes are no low-rank change;{_DENSELY}")
        tokens = next((module for module, parts in adapter.modules.items() if "tokens" in parts), None)
        if tokens is not None:
            raise MergeError(f"`{name}` trained rows of `{tokens}`, which no merged adapter can hold;{_DENSELY}")
    ways = {name: adapter.settings.fan_in_fan_out for name, adapter in adapters.items()}
    if len(dict.fromkeys(ways.values())) > 1:
        raise MergeError(f"`fan_in_fan_out` must be the same in all adapters, but is {ways}.")
    if rank is not None and (way == "factors" or kinds[first] != "LORA"):
        raise MergeError("`rank` cuts sums of products; leave it out, or use `combine: products` on LoRA adapters.")


def _checked(adapters: Mapping[str, Adapter], rows: Rows, tensor: str) -> Mapping[str, float]:
    weights = rows(tensor)
    for name in weights:
        if name not in adapters:
            known = ", ".join(adapters)
            raise MergeError(f"there is a weight for `{name}`, which is no adapter; there is: {known}.")
    for name in adapters:
        if name not in weights:
            raise MergeError(f"there must be a weight for every adapter, but `{name}` has none.")
        if not math.isfinite(weights[name]):
            raise MergeError(f"weights must be finite, but that of `{name}` is {weights[name]}.")
    return weights


def _factors(
    adapters: Mapping[str, Adapter], module: str, having: Sequence[tuple[Adapter, float]], way: Way
) -> tuple[tuple[str, str], Factors]:
    pairs = [next(pair for pair in _PLACES if pair[0] in adapter.modules[module]) for adapter, _ in having]
    parts = [_read(adapter, module, pair) for (adapter, _), pair in zip(having, pairs, strict=True)]
    weights = [weight for _, weight in having]
    for (adapter, _), pair, part in zip(having, pairs, parts, strict=True):
        if (pair, part.shape) != (pairs[0], parts[0].shape):
            raise MergeError(
                f"`{module}` must have the same shape in all adapters, but is changed by {parts[0].shape} in "
                f"{having[0][0].folder} and by {part.shape} in {adapter.folder}; are they for the same base?"
            )
    if way == "products":
        return pairs[0], product_sum(parts, weights)
    _check_factors(adapters, module, having, parts)
    return pairs[0], factor_sum(parts, weights)


def _check_factors(
    adapters: Mapping[str, Adapter], module: str, having: Sequence[tuple[Adapter, float]], parts: Sequence[Factors]
) -> None:
    """Sums of factors need every adapter, with one rank and one scale."""
    if len(having) < len(adapters):
        lacking = next(name for name, adapter in adapters.items() if module not in adapter.modules)
        raise MergeError(
            f"`combine: factors` needs every module in all adapters, but `{lacking}` lacks `{module}`;" + _OR
        )
    ranks = [part.rank for part in parts]
    scales = [adapter.settings.scaling(module) for adapter, _ in having if isinstance(adapter.settings, LoraSettings)]
    for what, found in (("rank", ranks), ("scale alpha / r", scales)):
        if len(dict.fromkeys(found)) > 1:
            raise MergeError(
                f"`combine: factors` needs the same {what} in all adapters, but `{module}` has "
                f"{', '.join(map(str, found))};" + _OR
            )


_OR = " use `combine: products`, which adds up what the adapters change."


def _read(adapter: Adapter, module: str, pair: tuple[str, str]) -> Factors:
    """The factors with the scaling in B."""
    return Factors(adapter.finite(adapter.modules[module][pair[0]]), _scaled(adapter, module, pair[1]))


def _scaled(adapter: Adapter, module: str, part: str) -> "Tensor":
    assert isinstance(adapter.settings, LoraSettings)
    return adapter.finite(adapter.modules[module][part]) * adapter.settings.scaling(module)


def _scales(module: str, having: Sequence[tuple[Adapter, float]]) -> "Tensor":
    """1 + the sum of w_i (l_i - 1): an adapter without the module has l = 1 there (PEM, 2306.14870, negation 2 - l)."""
    read = [(adapter.finite(adapter.modules[module]["ia3_l"]), weight) for adapter, weight in having]
    first = read[0][0]
    for tensor, _ in read:
        if tensor.shape != first.shape:
            raise MergeError(
                f"`{module}` must have factors of the same shape in all adapters, but has {tuple(first.shape)} and "
                f"{tuple(tensor.shape)}; are they for the same base?"
            )
    return 1 + _sum([(tensor - 1, weight) for tensor, weight in read])


def _whole(adapters: Mapping[str, Adapter], rows: Rows, base: Checkpoint | None) -> dict[str, "Tensor"]:
    """base + the sum of w_i (M_i - base) for every tensor that adapters hold whole."""
    names = sorted(dict.fromkeys(name for adapter in adapters.values() for name in adapter.whole))
    if names and base is None:
        holder = next(name for name, adapter in adapters.items() if adapter.whole)
        raise MergeError(
            f"`{holder}` holds {few([f'`{name}`' for name in names])} whole; name the `base` that these are changes of."
        )
    return {name: _around(name, adapters, rows, base) for name in names if base is not None}


def _around(name: str, adapters: Mapping[str, Adapter], rows: Rows, base: Checkpoint) -> "Tensor":
    if name not in base.shapes:
        raise MergeError(f"`{name}` is held whole by an adapter, but {base.folder} lacks it.")
    origin, weights = base.tensor(name).float(), _checked(adapters, rows, name)
    changes = []
    for adapter, weight in ((adapters[one], weights[one]) for one in adapters if name in adapters[one].whole):
        tensor = adapter.finite(adapter.whole[name])
        if tensor.shape != origin.shape:
            raise MergeError(
                f"`{name}` must have the shape {tuple(origin.shape)} of {base.folder}, but is {tuple(tensor.shape)} in "
                f"{adapter.folder}; is it for the same base?"
            )
        changes.append((tensor - origin, weight))
    return origin + _sum(changes)


def _sum(parts: Sequence[tuple["Tensor", float]]) -> "Tensor":
    import torch

    total = torch.zeros_like(parts[0][0])
    for tensor, weight in parts:
        total.add_(tensor, alpha=weight)
    return total
