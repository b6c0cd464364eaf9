"""What calibration examples say about one expert: second moments of its layers' inputs, or squared gradients."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from merging.checkpoint import tensor_digest
from merging.errors import MergeError
from merging.file_mode import as_new
from merging.hash_cache import remembered
from merging.pieces import pieces

Kind = Literal["gram", "fisher"]


class Grams:
    """Inside, every forward pass through the model adds to the Gram matrices of its linear layers' inputs.

        with Grams(model) as grams:
            model(**batch)
        found = grams.tensors()

    Layers are `nn.Linear` and transformers' `Conv1D`. Sums are float32, on the device of the inputs (see
    `gram_bytes` for their size). All rows count alike, padding too, so give one example at a time, or batches of equal
    lengths. Weights that several modules share (a head tied to the embeddings) are left out, and
    so are experts that a mixture packs into one tensor: no layer's inputs speak for them.
    """

    def __init__(self, model: nn.Module, targets: Mapping[str, Tensor] | None = None) -> None:
        """`targets` are the parameters by the names that tensors are wanted under; the model's own where None."""
        self._layers = _linear_layers(model, targets)
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}
        self._after = ExitStack()

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            hook = layer.register_forward_pre_hook(partial(self._add, name), with_kwargs=True)
            self._after.callback(hook.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after.close()

    @property
    def inputs_first(self) -> tuple[str, ...]:
        """The weights that are `[in, out]`: those of `Conv1D`."""
        return tuple(name for name, layer in self._layers.items() if is_conv1d(layer))

    def tensors(self) -> dict[str, Tensor]:
        """The mean of x x^T over all inputs x of a layer, under its weight's name: float32 `[in, in]` on the CPU.

        Layers that never ran are left out. Raises `MergeError` where none did, or an entry is not finite.
        """
        if not self._sums:
            raise MergeError(
                "Gram matrices need a model whose linear layers run in torch, but none of its "
                f"{len(self._layers)} ran; score an example inside, with the engine `torch`."
            )
        found = {name: (self._sums[name] / self._rows[name]).cpu() for name in self._layers if name in self._sums}
        _check_finite(found, "the Gram matrix")
        return found

    @torch.no_grad()
    def _add(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        inputs: Tensor = (*args, *kwargs.values())[0]
        rows = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        if name not in self._sums:
            self._sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
            self._rows[name] = 0
        self._sums[name].add_(rows.T @ rows)
        self._rows[name] += len(rows)


class SquaredGradients:
    """Inside, the gradients of one example after the other are squared and added up: the diagonal Fisher information.

        with SquaredGradients(model) as squares:
            for example in examples:
                loss(example).backward()
                squares.take()
        found = squares.tensors()

    Each example is squared by itself: the square of a batch's sum is another number (`take` once per example, after all
    of its backward passes). With the gold answers' losses this is the empirical Fisher. Sums are float32 on the device
    of the model; with the gradients themselves that is 4 bytes and those of the model's dtype per parameter.
    """

    def __init__(self, model: nn.Module, targets: Mapping[str, Tensor] | None = None) -> None:
        """`targets` are the parameters by the names that tensors are wanted under; the model's own where None."""
        self._model = model
        self._parameters = _parameters(model, targets)
        self._sums: dict[str, Tensor] = {}
        self._examples = 0
        self._after = ExitStack()

    def __enter__(self) -> Self:
        """The named parameters alone require gradients, and have none yet."""
        wanted = {id(parameter) for parameter in self._parameters.values()}
        for parameter in self._model.parameters():
            self._after.callback(_restore, parameter, parameter.requires_grad)
            parameter.requires_grad_(id(parameter) in wanted)
            parameter.grad = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._after.close()

    @torch.no_grad()
    def take(self) -> None:
        """Add the square of the gradients there are, and clear them: an example is over."""
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            square = parameter.grad.float().square()
            parameter.grad = None
            if name in self._sums:
                self._sums[name].add_(square)
            else:
                self._sums[name] = square
        self._examples += 1

    def tensors(self) -> dict[str, Tensor]:
        """The mean squared gradient of every parameter that had one, in its shape: float32 on the CPU.

        Raises `MergeError` where there was no gradient at all, or an entry is not finite.
        """
        if not self._sums:
            raise MergeError(
                f"squared gradients need a gradient, but {self._examples} examples left none; run a loss's backward "
                "pass inside."
            )
        found = {name: (self._sums[name] / self._examples).cpu() for name in self._parameters if name in self._sums}
        _check_finite(found, "the squared gradient")
        return found


def collect_gram(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The Gram matrices of a model that is called with each of the batches as its arguments (see `Grams`)."""
    with torch.no_grad(), Grams(model) as grams:
        for batch in batches:
            model(**batch)
    return grams.tensors()


def collect_fisher(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """The mean squared gradient of the losses, one scalar per example, each made when the one before is done with."""
    with SquaredGradients(model) as squares:
        for loss in losses:
            torch.autograd.backward(loss)
            squares.take()
    return squares.tensors()


def gram_bytes(model: nn.Module, targets: Mapping[str, Tensor] | None = None) -> int:
    """How much memory and disk the Gram matrices of a model take."""
    return sum(4 * _inputs(layer) ** 2 for layer in _linear_layers(model, targets).values())


@dataclass(frozen=True, eq=False)
class Statistics:
    """An opened file of them. `key` names what they were made from (see `statistics_key`).

    `inputs_first` names the weights that are `[in, out]` and not `[out, in]`.
    """

    kind: Kind
    key: str
    names: tuple[str, ...]
    inputs_first: tuple[str, ...]
    _handle: Any = field(repr=False)

    @cached_property
    def norm(self) -> float:
        """The Euclidean norm over all tensors, 1 where it is zero; reads all of them once."""
        total = math.fsum(
            float(part.double().square().sum()) for name in self.names for part in pieces(self.tensor(name))
        )
        return math.sqrt(total) or 1.0

    def tensor(self, name: str) -> Tensor:
        """float32, backed by the mapped file: never write to it."""
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor


def statistics_key(kind: Kind, model: str, examples: Sequence[str]) -> str:
    """Sixteen hexadecimal digits for what determines statistics: kind, fingerprint of the model, ids of the examples.

    The order of the examples does not count; that the last bits of a sum depend on it does no harm.
    """
    text = json.dumps([kind, model, sorted(examples)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_statistics(
    file: Path, kind: Kind, key: str, tensors: Mapping[str, Tensor], inputs_first: Sequence[str] = ()
) -> Path:
    """Write the file beside and rename it, so that it is complete or absent; one that is there is replaced."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".partial")
    os.close(descriptor)
    try:
        facts = {"kind": kind, "key": key, "inputs_first": json.dumps(list(inputs_first))}
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, beside, metadata=facts)
        with open(beside, "rb") as stream:
            os.fsync(stream.fileno())
        as_new(Path(beside))
        os.replace(beside, file)
    finally:
        Path(beside).unlink(missing_ok=True)
    return file


def open_statistics(file: Path) -> Statistics:
    """Raises `MergeError` where the file is missing, damaged, or none of ours."""
    try:
        handle: Any = safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise MergeError(f"{file}: is not a whole file of statistics ({error}); collect them again.") from error
    facts: dict[str, str] = handle.metadata() or {}
    kind: Any = facts.get("kind")
    if kind not in ("gram", "fisher") or "key" not in facts:
        raise MergeError(f"{file}: must say what statistics it holds, gram or fisher, but says {kind!r}.")
    inputs_first = tuple(json.loads(facts.get("inputs_first", "[]")))
    return Statistics(kind, facts["key"], tuple(sorted(handle.keys())), inputs_first, handle)


def expert_file(folder: Path, kind: Kind, expert: str) -> Path:
    """Where the methods `regmean` and `fisher` look for an expert's statistics."""
    return folder / f"{expert}.{kind}.safetensors"


def expert_statistics(folder: Path, kind: Kind, experts: Sequence[str]) -> list[Statistics]:
    """Each expert's, in order; a file is opened once. Raises `MergeError` where one is missing or of another kind."""
    files = [expert_file(folder, kind, expert) for expert in experts]
    missing = [expert for expert, file in zip(experts, files, strict=True) if not os.path.isfile(file)]
    if missing:
        raise MergeError(
            f"{folder} must have a file {expert_file(Path(), kind, missing[0])} for the expert `{missing[0]}`, but has "
            f"none; run `mergeopt calibrate` for {', '.join(missing)}, or correct `statistics`."
        )
    return [_opened_once(file, file.stat().st_mtime_ns, kind) for file in files]


def expert_fingerprint(folder: Path, kind: Kind, experts: Sequence[str], cache: Path | None = None) -> str:
    """A hash of all that a merge reads of each expert's statistics, in order; where they lie has no part in it.

    Hashes are remembered per file (see `merging.hash_cache`). Raises `MergeError` as `expert_statistics` does.
    """
    opened = expert_statistics(folder, kind, experts)
    files = [expert_file(folder, kind, expert) for expert in experts]
    found = [
        remembered(file, "statistics", partial(_digests, one), cache) for file, one in zip(files, opened, strict=True)
    ]
    return hashlib.sha256(json.dumps([kind, found]).encode()).hexdigest()


def _digests(statistics: Statistics) -> list[Any]:
    tensors = {name: statistics.tensor(name) for name in statistics.names}
    shapes = [[name, str(one.dtype), list(one.shape), tensor_digest(one)] for name, one in tensors.items()]
    return [shapes, list(statistics.inputs_first)]


@lru_cache(maxsize=64)
def _opened_once(file: Path, changed: int, kind: Kind) -> Statistics:  # noqa: ARG001
    found = open_statistics(file)
    if found.kind != kind:
        raise MergeError(f"{file}: must hold statistics of the kind {kind}, but holds {found.kind}.")
    return found


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' linear layer of GPT-2, whose weight is `[in, out]`."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _linear_layers(model: nn.Module, targets: Mapping[str, Tensor] | None) -> dict[str, nn.Module]:
    """The linear layers by the names of their weights, in the order of the names."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    layers = {
        id(module.weight): module for module in model.modules() if isinstance(module, nn.Linear) or is_conv1d(module)
    }
    return {
        name: layers[id(parameter)]
        for name, parameter in _parameters(model, targets).items()
        if id(parameter) in layers and owners[id(parameter)] == 1
    }


def _parameters(model: nn.Module, targets: Mapping[str, Tensor] | None) -> dict[str, nn.Parameter]:
    named = dict(model.named_parameters()) if targets is None else targets
    return {
        name: target
        for name, target in named.items()
        if isinstance(target, nn.Parameter) and target.is_floating_point()
    }


def _inputs(layer: nn.Module) -> int:
    weight: Any = layer.weight
    return int(weight.shape[0] if is_conv1d(layer) else weight.shape[1])


def _check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise MergeError(
                f"{what} of `{name}` must be finite, but holds NaN or infinity; check the model for broken weights, "
                "or use a wider dtype."
            )


def _restore(parameter: nn.Parameter, required: bool) -> None:
    parameter.requires_grad_(required)
    parameter.grad = None
