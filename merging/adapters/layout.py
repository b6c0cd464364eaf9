"""Where an adapter's modules are in its base: under which names, and which way round their weights lie."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from merging.adapters.files import Adapter, few
from merging.adapters.settings import LoraSettings
from merging.checkpoint import Checkpoint, tensor_digest
from merging.errors import CheckpointError


@dataclass(frozen=True)
class Placed:
    """A module in the base: its name there, and whether its weight is [in, out] and not [out, in].

    Embeddings and GPT-2's Conv1D are [in, out]. `scales_outputs` says what IA3's factors stand for.
    """

    name: str
    transposed: bool
    scales_outputs: bool = False

    @property
    def weight(self) -> str:
        return f"{self.name}.weight"

    @property
    def bias(self) -> str:
        return f"{self.name}.bias"


@dataclass(frozen=True)
class Layout:
    """`modules` by their names in the adapter; `whole` has the tensors of the base that are replaced, with the names
    of those in the adapter's file."""

    modules: Mapping[str, Placed]
    whole: Mapping[str, str]


def layout_of(adapter: Adapter, base: Checkpoint) -> Layout:
    """Raises `CheckpointError` where the adapter changes what the base lacks, or what has another shape there."""
    weights = {module: f"{module}.weight" for module in adapter.modules}
    spelled = _spelling([*weights.values(), *adapter.whole], base)
    wanted = {module: spelled[name] for module, name in weights.items()}
    whole = {spelled[name]: stored for name, stored in adapter.whole.items()}
    names = [*wanted.values(), *whole, *_biases(adapter, wanted)]
    lacking = [name for name in names if name not in base.shapes]
    for name in _tied_copies(adapter, whole, lacking, base):
        lacking.remove(name)
        del whole[name]
    if lacking:
        raise CheckpointError(
            f"{adapter.folder}: changes {len(lacking)} tensors that {base.folder} lacks: "
            f"{few([f'`{name}`' for name in lacking])}.{_advice(adapter, lacking)}"
        )
    shapes = dict(base.shapes) | {name: adapter.shapes[stored] for name, stored in whole.items()}
    ways = {module: _ways(adapter, module, shapes[name]) for module, name in wanted.items()}
    misfits = [
        f"`{wanted[module]}` is {shapes[wanted[module]]}, but the adapter's is for {_described(adapter, module)}"
        for module, found in ways.items()
        if not found
    ] + list(_bias_misfits(adapter, wanted, shapes))
    if misfits:
        raise CheckpointError(
            f"{adapter.folder}: must fit the shapes of {base.folder}, but {len(misfits)} do not: "
            f"{few(misfits, '; ')}.{_advice(adapter)}"
        )
    telling = [
        found for module, found in ways.items() if len(shapes[wanted[module]]) == 2 and _is_linear(adapter, module)
    ]
    usual = _usual_way(adapter.settings.fan_in_fan_out, telling)
    modules = {
        module: Placed(
            name=name.removesuffix(".weight"),
            transposed=ways[module][0] if len(ways[module]) == 1 else usual,
            scales_outputs=_scales_outputs(adapter, module),
        )
        for module, name in wanted.items()
    }
    return Layout(modules, whole)


def _spelling(names: Sequence[str], base: Checkpoint) -> dict[str, str]:
    """The base's spelling of an adapter's names: as they are, or all with one prefix more or less.

    An adapter was made for a model with its head on top (`transformer.h.0...`), which a base may be stored without.
    """
    for prefix, cut in _prefixes(names[0], base):
        spelled = {name: prefix + name.removeprefix(cut) for name in names}
        if all(name.startswith(cut) for name in names) and all(name in base.shapes for name in spelled.values()):
            return spelled
    return {name: name for name in names}


def _tied_copies(adapter: Adapter, whole: Mapping[str, str], lacking: Sequence[str], base: Checkpoint) -> list[str]:
    """Tensors the base does without, because they are others of its own: a tied head saved beside its embeddings."""
    kept = [stored for name, stored in whole.items() if name in base.shapes]
    return [name for name in lacking if name in whole and any(_same(adapter, whole[name], other) for other in kept)]


def _same(adapter: Adapter, one: str, other: str) -> bool:
    if (adapter.shapes[one], adapter.dtypes[one]) != (adapter.shapes[other], adapter.dtypes[other]):
        return False
    return tensor_digest(adapter.tensor(one)) == tensor_digest(adapter.tensor(other))


def _prefixes(first: str, base: Checkpoint) -> Iterator[tuple[str, str]]:
    """What to put before a name, and what to cut off first, so that the base has it."""
    yield "", ""
    for name in base.names:
        if name.endswith(f".{first}"):
            yield name.removesuffix(first), ""
    rest = first
    while "." in rest:
        rest = rest.partition(".")[2]
        if rest in base.shapes:
            yield "", first.removesuffix(rest)


def _ways(adapter: Adapter, module: str, shape: tuple[int, ...]) -> list[bool]:
    """The ways round in which a weight of this shape may be the module's: [False] for [out, in], [True] for [in, out].

    Both for a square one, none where it does not fit.
    """
    parts, shapes = adapter.modules[module], adapter.shapes
    if "ia3_l" in parts:
        factors = shapes[parts["ia3_l"]]
        if len(shape) != 2 or len(factors) != 2 or min(factors) != 1:
            return []
        outputs = _scales_outputs(adapter, module)
        return [way for way in (False, True) if shape[1 if outputs == way else 0] == math.prod(factors)]
    if "tokens" in parts and not _fits_tokens(adapter, module, shape):
        return []
    if "lora_embedding_A" in parts:
        a, b = shapes[parts["lora_embedding_A"]], shapes[parts["lora_embedding_B"]]
        return [True] if shape == (a[1], b[0]) else []
    if "lora_A" not in parts:
        return [True]
    a, b = shapes[parts["lora_A"]], shapes[parts["lora_B"]]
    if len(shape) > 2:
        return [False] if (b[0], *a[1:]) == shape and math.prod(b[2:]) == 1 else []
    found = [way for way, wanted in ((False, (b[0], a[1])), (True, (a[1], b[0]))) if shape == wanted]
    return found if len(a) == len(b) == 2 else []


def _fits_tokens(adapter: Adapter, module: str, shape: tuple[int, ...]) -> bool:
    assert isinstance(adapter.settings, LoraSettings)
    rows = adapter.settings.tokens(module)
    stored = adapter.shapes[adapter.modules[module]["tokens"]]
    return rows is not None and stored == (len(rows), *shape[1:]) and all(0 <= row < shape[0] for row in rows)


def _usual_way(flag: bool, ways: Sequence[Sequence[bool]]) -> bool:
    """The way round of square weights: as the settings say, unless every other linear module of the adapter says no.

    GPT-2's weights are [in, out], and `fan_in_fan_out` may have been left out.
    """
    decided = [found[0] for found in ways if len(found) == 1]
    return not flag if decided and all(way != flag for way in decided) else flag


def _is_linear(adapter: Adapter, module: str) -> bool:
    """Whether the module may lie either way round, which embeddings and convolutions do not."""
    parts = adapter.modules[module]
    return "ia3_l" in parts or ("lora_A" in parts and len(adapter.shapes[parts["lora_A"]]) == 2)


def _scales_outputs(adapter: Adapter, module: str) -> bool:
    """IA3's factors are [out, 1] where they scale outputs, [1, in] where they scale what goes into a feed-forward."""
    stored = adapter.modules[module].get("ia3_l")
    return stored is not None and adapter.shapes[stored][-1] == 1


def _biases(adapter: Adapter, wanted: Mapping[str, str]) -> list[str]:
    """The biases that the adapter changes, by their names in the base."""
    changing = [module for module, parts in adapter.modules.items() if "lora_B.bias" in parts]
    return [_bias_of(wanted[module]) for module in changing]


def _bias_misfits(adapter: Adapter, wanted: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for module, parts in adapter.modules.items():
        if "lora_B.bias" in parts:
            here, there = shapes[_bias_of(wanted[module])], adapter.shapes[parts["lora_B.bias"]]
            if here != there:
                yield f"`{_bias_of(wanted[module])}` is {here}, but the adapter's is {there}"


def _bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"


def _described(adapter: Adapter, module: str) -> str:
    """What an adapter's parts say of the weight that they change."""
    parts = adapter.modules[module]
    shown = [f"{part} {adapter.shapes[stored]}" for part, stored in parts.items()]
    return "one of " + ", ".join(shown)


def _advice(adapter: Adapter, lacking: Sequence[str] = ()) -> str:
    found = ""
    if lacking and all("head" in name or "embed_out" in name for name in lacking):
        found = " Is the head tied to the embeddings, or not in the base? Save the base with a head of its own first."
    named = adapter.config.get("base_model_name_or_path")
    return found + (f" The adapter says it was made for `{named}`." if isinstance(named, str) and named else "")
