"""Which tensor of which model goes into each tensor of a merge config's result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.groups import group_of, split_at_layer
from merging.mergekit.grammar import InputModel, MergeConfig, Module, OutputSlice
from merging.mergekit.modules import owner
from merging.mergekit.open import Opened
from merging.mergekit.reference import ModelReference
from merging.mergekit.settings import Parameters
from merging.tied import embeddings_for

NOT_MERGED = "not in a module"
"""The part of tensors that no module of a config names."""
_FEW = 3
_BEFORE_LAYERS = ("embeddings.", "embedding_norm", "patch_conv", "ln_pre", "pre_layrnorm")


@dataclass(frozen=True)
class Input:
    """One model's tensor: `name` in `checkpoint`, with the parameters that stand beside the model in the config."""

    label: str
    checkpoint: Checkpoint
    name: str
    is_base: bool
    parameters: Parameters | None


@dataclass(frozen=True)
class Planned:
    """One tensor of the result and what it is made of.

    `t` is the place of its layer in its slice, 0 to 1; `depth` its place in the whole stack of layers, None outside.
    `places` are the parameters that hold for all of its inputs, those that go before others first.
    """

    name: str
    inputs: tuple[Input, ...]
    t: float
    depth: float | None
    places: tuple[Parameters | None, ...]
    part: str


Stacks = dict[str, dict[int, list[str]]]
"""By what stands before the number of a layer: each layer's tensors, by what stands after it."""


Models = dict[str, tuple[Checkpoint, Stacks]]


@dataclass(frozen=True)
class _Source:
    """A model of a slice; `layers` None for all of them."""

    label: str
    checkpoint: Checkpoint
    is_base: bool
    parameters: Parameters | None
    layers: range | None
    stacks: Stacks


@dataclass(frozen=True)
class _Slice:
    sources: tuple[_Source, ...]
    parameters: Parameters | None
    part: str


@dataclass(frozen=True)
class Plan:
    """All tensors of the result. `stacks` has, for each stack of layers (by what stands in names before the number),
    the layer and the model that each of its layers takes after."""

    tensors: tuple[Planned, ...]
    stacks: dict[str, tuple[tuple[Checkpoint, int], ...]]
    sliced: bool


def plan(config: MergeConfig, opened: Opened) -> Plan:
    """Raises `MergeError` where layers are missing, or models have other tensors than the first of their slice."""
    modules = config.modules or {"": Module(models=config.models, slices=config.slices or None)}
    models = {label: (model, _stacks(model.names)) for label, model in opened.items()}
    tensors: list[Planned] = []
    stacks: dict[str, tuple[tuple[Checkpoint, int], ...]] = {}
    for name, module in modules.items():
        slices = _slices(name, module, config, models)
        places = (module.parameters if config.modules else None, config.parameters)
        owned = _owned(slices[0].sources[0].checkpoint, name, modules)
        if not owned:
            raise MergeError(f"module `{name}`: {slices[0].sources[0].label} has no tensors of it.")
        everywhere = [one for source in slices[-1].sources for one in _owned(source.checkpoint, name, modules)]
        heads = [one for one in everywhere if _is_missing_head(one, slices)]
        tensors += _outside(owned, heads, slices, places)
        towers = list(_stacks(owned))
        if module.slices and len(towers) > 1:
            raise MergeError(
                f"slices cut one stack of layers, but there are {_shown(towers)}; give each slices of its own, "
                "with `modules`."
            )
        for before in towers:
            inside, origins = _inside(before, slices, places)
            tensors += inside
            stacks[before] = tuple(origins)
    tensors += _left_over(*next(iter(opened.items())), modules)
    sliced = any(module.slices for module in modules.values())
    return Plan(tuple(sorted(tensors, key=lambda one: one.name)), stacks, sliced)


def _slices(name: str, module: Module, config: MergeConfig, opened: Models) -> list[_Slice]:
    at = f"modules.{name}." if name else ""
    if module.models:
        base = config.base_model
        listed = list(module.models)
        if base is not None and not any(base.same(one.model) for one in listed):
            listed.append(InputModel(model=base))
        sources = _labelled([(one.model, one.parameters, None) for one in listed], base, opened)
        return [_Slice(sources, None, f"{at}models")]
    return [
        _slice(piece, f"{at}slices[{number}]", config.base_model, opened)
        for number, piece in enumerate(module.slices or ())
    ]


def _slice(piece: OutputSlice, part: str, base: ModelReference | None, opened: Models) -> _Slice:
    written = [(source.model, source.parameters, source.layers) for source in piece.sources]
    return _Slice(_labelled(written, piece.base_model or base, opened), piece.parameters, part)


def _labelled(
    written: Sequence[tuple[ModelReference, Parameters | None, range | None]],
    base: ModelReference | None,
    opened: Models,
) -> tuple[_Source, ...]:
    """Sources under names of their own: a model that comes twice is counted."""
    found: list[_Source] = []
    for reference, parameters, layers in written:
        text = str(reference)
        before = sum(one.label.partition("#")[0] == text for one in found)
        label = f"{text}#{before + 1}" if before else text
        is_base = reference.same(base) and not before
        found.append(_Source(label, opened[text][0], is_base, parameters, layers, opened[text][1]))
    return tuple(found)


def _owned(checkpoint: Checkpoint, name: str, modules: dict[str, Module]) -> list[str]:
    if not name:
        return list(checkpoint.names)
    return [one for one in checkpoint.names if owner(one, list(modules)) == name]


def _left_over(label: str, donor: Checkpoint, modules: dict[str, Module]) -> Iterator[Planned]:
    """Tensors that no module of the config names: the first model's own."""
    for name in donor.names if list(modules) != [""] else ():
        if owner(name, list(modules)) is None:
            yield Planned(name, (Input(label, donor, name, True, None),), 0.0, None, (), NOT_MERGED)


def _outside(
    owned: Sequence[str], heads: Sequence[str], slices: Sequence[_Slice], places: tuple[Parameters | None, ...]
) -> Iterator[Planned]:
    """Tensors outside of layers: what stands before them is the first slice's, what stands after them the last's.

    Both at t = 0, as in mergekit, so that a gradient gives a head its first value.
    """
    names = [name for name in owned if split_at_layer(name) is None]
    for name in dict.fromkeys([*names, *heads]):
        piece = slices[0] if _stands_before(name) else slices[-1]
        inputs = tuple(_input(source, name, piece) for source in piece.sources)
        yield Planned(name, inputs, 0.0, None, (piece.parameters, *places), piece.part)


def _is_missing_head(name: str, slices: Sequence[_Slice]) -> bool:
    """A head that the first model lacks because its embeddings stand in, and another has."""
    first = slices[0].sources[0].checkpoint
    return name not in first.shapes and embeddings_for(first, name) is not None


def _stands_before(name: str) -> bool:
    return group_of(name).module == "embeddings" or any(word in name for word in _BEFORE_LAYERS)


def _inside(
    before: str, slices: Sequence[_Slice], places: tuple[Parameters | None, ...]
) -> tuple[list[Planned], list[tuple[Checkpoint, int]]]:
    """The tensors of a stack of layers, renumbered by the slices, and where each layer comes from."""
    ranges = [_ranges(before, piece) for piece in slices]
    count = sum(len(found[0]) for found in ranges)
    planned: list[Planned] = []
    origins: list[tuple[Checkpoint, int]] = []
    for piece, layers in zip(slices, ranges, strict=True):
        first = piece.sources[0]
        for index, here in enumerate(layers[0]):
            number = len(origins)
            t = index / (len(layers[0]) - 1) if len(layers[0]) > 1 else 1.0
            depth = number / (count - 1) if number else 0.0
            afters = first.stacks[before][here]
            for after in afters:
                inputs = tuple(
                    _input(source, f"{before}{run[index]}{after}", piece)
                    for source, run in zip(piece.sources, layers, strict=True)
                )
                name = f"{before}{number}{after}"
                planned.append(Planned(name, inputs, t, depth, (piece.parameters, *places), piece.part))
            for source, run in zip(piece.sources, layers, strict=True):
                _check_no_more(source, first, before, run[index], here, afters)
            origins.append((first.checkpoint, here))
    return planned, origins


def _ranges(before: str, piece: _Slice) -> list[range]:
    """Which layers of each source the slice takes."""
    found = []
    for source in piece.sources:
        there = len(source.stacks.get(before, {}))
        layers = source.layers if source.layers is not None else range(there)
        if layers.stop > there:
            raise MergeError(
                f"{piece.part}: `layer_range` must stay within the layers 0 to {there - 1} of {source.label}, but is "
                f"{[layers.start, layers.stop]}."
            )
        found.append(layers)
    if any(len(layers) != len(found[0]) for layers in found):
        shown = ", ".join(f"{len(layers)} of {one.label}" for layers, one in zip(found, piece.sources, strict=True))
        raise MergeError(
            f"{piece.part}: models must have as many layers as each other, but there are {shown}; say with `slices` "
            "which layers go together."
        )
    return found


def _check_no_more(
    source: _Source, first: _Source, before: str, layer: int, first_layer: int, afters: Sequence[str]
) -> None:
    more = [after for after in source.stacks[before][layer] if after not in afters]
    if more:
        raise MergeError(
            f"layer {layer} of {source.label} has {_shown([f'{before}{layer}{after}' for after in more])}, which layer "
            f"{first_layer} of {first.label} lacks; layers of unequal kinds cannot be merged."
        )


def _input(source: _Source, name: str, piece: _Slice) -> Input:
    stored: str | None = name if name in source.checkpoint.shapes else embeddings_for(source.checkpoint, name)
    if stored is None:
        first = piece.sources[0]
        raise MergeError(
            f"{piece.part}: {source.label} must have the tensors of {first.label}, but lacks `{name}`; only models and "
            "layers of one kind can be merged."
        )
    return Input(source.label, source.checkpoint, stored, source.is_base, source.parameters)


def _stacks(names: Sequence[str]) -> Stacks:
    found: Stacks = {}
    for name in names:
        parts = split_at_layer(name)
        if parts is not None:
            before, number, after = parts
            found.setdefault(before, {}).setdefault(number, []).append(after)
    return found


def _shown(words: Sequence[str]) -> str:
    rest = f" and {len(words) - _FEW} more" if len(words) > _FEW else ""
    return ", ".join(f"`{word}`" for word in words[:_FEW]) + rest
