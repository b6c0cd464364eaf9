"""Collect Gram matrices layer by layer behind the merge of the layers before: the inputs of RegMean++."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from merging.errors import MergeError
from merging.methods.calibrated import weighted_average
from merging.methods.regmean import ALPHA, RIDGE, regmean
from merging.statistics import Grams, gram_bytes, is_conv1d

Batch = Mapping[str, Any]
"""The arguments of a model for one example."""


@torch.no_grad()
def running_grams(
    models: Mapping[str, nn.Module],
    batches: Mapping[str, Sequence[Batch]],
    names: Mapping[str, str],
    alpha: float = ALPHA,
    ridge: float = RIDGE,
) -> dict[str, dict[str, Tensor]]:
    """For each expert the mean of x x^T over the inputs of its linear layers: float32 `[in, in]`, by tensor names.

    RegMean++, arXiv 2508.03121: what a block gets is what the merge of the blocks before makes of the expert's own
    examples, and inside of the block the expert runs. `regmean` of these matrices with the same `alpha` and `ridge` is
    the paper's merge. What stands before the blocks is averaged; so is a tied head.

    `models` are of one architecture, on one device and in eval mode; one more is made. `names` are their parameters by
    the names that tensors are wanted under. The hidden states of all examples are kept. Raises `MergeError` for models
    that have not exactly one list of as many blocks as layers, or blocks that see different parts of a text.
    """
    first = next(iter(models.values()))
    path = _path_of_blocks(first)
    count = len(_blocks(first, path))
    inside = [
        {tensor: name for tensor, name in names.items() if name.startswith(f"{path}.{place}.")}
        for place in range(count)
    ]
    outside = {tensor: name for tensor, name in names.items() if not name.startswith(f"{path}.")}
    found: dict[str, dict[str, Tensor]] = {expert: {} for expert in models}
    merged = copy.deepcopy(first)
    for name in outside.values():
        _average(merged, models, name)
    hidden = {expert: [_reaching(merged, path, batch) for batch in batches[expert]] for expert in models}
    for place in range(count):
        for expert, model in models.items():
            with Grams(model, _parameters(model, inside[place])) as grams:
                for batch, before in zip(batches[expert], hidden[expert], strict=True):
                    _through(model, path, place, batch, before)
            found[expert] |= grams.tensors()
        for tensor, name in inside[place].items():
            _merge(merged, models, name, [found[expert].get(tensor) for expert in models], alpha, ridge)
        for expert in models:
            pairs = zip(batches[expert], hidden[expert], strict=True)
            hidden[expert] = [_through(merged, path, place, batch, before) for batch, before in pairs]
    behind = _parameters(merged, outside)
    if gram_bytes(merged, behind):  # a head that is not tied to the embeddings
        for expert in models:
            with Grams(merged, behind) as grams:
                for batch, after in zip(batches[expert], hidden[expert], strict=True):
                    _behind(merged, path, batch, after)
            found[expert] |= grams.tensors()
    return found


def _merge(
    merged: nn.Module,
    models: Mapping[str, nn.Module],
    name: str,
    grams: Sequence[Tensor | None],
    alpha: float,
    ridge: float,
) -> None:
    known = [gram for gram in grams if gram is not None]
    if len(known) < len(grams):
        _average(merged, models, name)
        return
    weights = [model.get_parameter(name).cpu() for model in models.values()]
    if is_conv1d(merged.get_submodule(name.rpartition(".")[0])):
        merged.get_parameter(name).copy_(regmean([weight.T for weight in weights], known, alpha, ridge).T)
    else:
        merged.get_parameter(name).copy_(regmean(weights, known, alpha, ridge))


def _average(merged: nn.Module, models: Mapping[str, nn.Module], name: str) -> None:
    weights = [model.get_parameter(name).float() for model in models.values()]
    merged.get_parameter(name).copy_(weighted_average(weights, (1.0,) * len(weights)))


def _parameters(model: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    return {tensor: model.get_parameter(name) for tensor, name in names.items()}


class _Seen(Exception):
    pass


def _reaching(model: nn.Module, path: str, batch: Batch) -> Tensor:
    """What the first block gets."""
    seen: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise _Seen

    with _hooked(_blocks(model, path)[0].register_forward_pre_hook(before, with_kwargs=True)):
        _run(model, batch)
    return seen[0]


def _through(model: nn.Module, path: str, place: int, batch: Batch, hidden: Tensor) -> Tensor:
    """What one block makes of hidden states. The model runs with it as its only block, for the masks and positions."""
    seen: list[Tensor] = []

    def after(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise _Seen

    block = _blocks(model, path)[place]
    replaced = block.register_forward_pre_hook(_instead(hidden), with_kwargs=True)
    with _hooked(replaced), _hooked(block.register_forward_hook(after)), _alone(model, path, block):
        _run(model, batch)
    return seen[0]


def _behind(model: nn.Module, path: str, batch: Batch, hidden: Tensor) -> None:
    """Run what stands behind the blocks on hidden states."""

    def after(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    block = _blocks(model, path)[-1]
    with _hooked(block.register_forward_hook(after)), _alone(model, path, block):
        _run(model, batch)


def _instead(hidden: Tensor) -> Any:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    return before


def _run(model: nn.Module, batch: Batch) -> None:
    with suppress(_Seen):
        model(**batch)


@contextmanager
def _hooked(hook: Any) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _alone(model: nn.Module, path: str, block: nn.Module) -> Iterator[None]:
    parent, _, name = path.rpartition(".")
    owner, blocks = model.get_submodule(parent), _blocks(model, path)
    setattr(owner, name, nn.ModuleList([block]))
    try:
        yield
    finally:
        setattr(owner, name, blocks)


def _blocks(model: nn.Module, path: str) -> nn.ModuleList:
    found = model.get_submodule(path)
    assert isinstance(found, nn.ModuleList)
    return found


def _path_of_blocks(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    layers = getattr(config, "num_hidden_layers", None)
    found: list[str] = [
        name for name, one in model.named_modules() if isinstance(one, nn.ModuleList) and len(one) == layers
    ]
    if len(found) != 1:
        raise MergeError(
            f"a running merge needs a model with one list of {layers} blocks, but {type(model).__name__} has "
            f"{len(found)}; collect without `--running`."
        )
    kinds = dict.fromkeys(getattr(config, "layer_types", None) or ())
    if len(kinds) > 1:
        raise MergeError(
            f"a running merge needs blocks that all see the same part of a text, but {type(model).__name__} has "
            f"{', '.join(kinds)}; collect without `--running`."
        )
    return found[0]
