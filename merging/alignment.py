"""Bring models under the same tensor names, where only a prefix, an old spelling or a stored buffer sets them apart."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path

from merging.adapters import is_adapter, laid_over, needs_a_base, open_adapter
from merging.checkpoint import Checkpoint, open_checkpoint, open_folder, renamed
from merging.errors import CheckpointError
from merging.groups import is_merged
from merging.locate import locate
from merging.recipe import Source

# What BERT's first checkpoints call the parameters of a norm.
_OLD_NORMS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))
_MASK = re.compile(r"(?:attn|attention)\.(?:masked_)?bias$")
_BUFFER = re.compile(r"rotary_emb\.inv_freq$|position_ids$")


def open_aligned(
    base: Source | None, experts: Sequence[Source], unmerged: Collection[str]
) -> tuple[Checkpoint | None, list[Checkpoint]]:
    """The base and the experts opened, under the same names (see `aligned`), adapters laid over the base.

    Raises `CheckpointError` where one cannot be opened, or an adapter does not fit the base or has none.
    """
    ours = open_checkpoint(base) if base is not None else None
    places = [(source, *locate(source)) for source in experts]
    whole = [open_folder(*place) for place in places if not is_adapter(place[1])]
    if whole:
        ours, whole = aligned(ours, whole, unmerged)
    others = iter(whole)
    return ours, [_over(ours, *place) if is_adapter(place[1]) else next(others) for place in places]


def _over(base: Checkpoint | None, source: Source, folder: Path, from_hub: bool) -> Checkpoint:
    if base is None:
        raise CheckpointError(needs_a_base(source))
    return laid_over(open_adapter(source, folder, from_hub), base)


def reference_of(base: Checkpoint | None, experts: Sequence[Checkpoint], unmerged: Collection[str]) -> Checkpoint:
    """The model that lends a merge its names, dtypes, config and tokenizer, and the tensors that are not merged.

    It is the base, where it has every unmerged tensor that the first expert has, else the first expert: a base without
    a classification head cannot say what one looks like.
    """
    first = experts[0]
    if base is None:
        return first
    wanted = [name for name in first.names if not is_merged(name, unmerged)]
    return base if all(name in base.shapes for name in wanted) else first


def aligned(
    base: Checkpoint | None, experts: Sequence[Checkpoint], unmerged: Collection[str]
) -> tuple[Checkpoint | None, list[Checkpoint]]:
    """The same models; the base's tensors under the experts' names, if its merged tensors are theirs but for a prefix.

    So a checkpoint of the bare model (`h.0.attn.c_attn.weight`) goes with experts that have a head on top
    (`transformer.h.0.attn.c_attn.weight`), and the other way round. Buffers that old versions stored and new ones
    compute (causal masks, position ids, rotary frequencies) are left out, unless every model has them. Models that
    differ in more stay as they are, for `compatibility` to name the difference.
    """
    models = [*([_spelled_as(base, experts[0], unmerged)] if base is not None else []), *experts]
    everywhere = [name for name in models[0].names if all(name in model.shapes for model in models)]
    found = [_without_buffers(model, everywhere) for model in models]
    return (None, found) if base is None else (found[0], found[1:])


def _spelled_as(base: Checkpoint, like: Checkpoint, unmerged: Collection[str]) -> Checkpoint:
    """The base under the names that its merged tensors have in `like`."""
    modern = {_modern(name): name for name in base.names}
    if len(modern) < len(base.names) or any(old in name for old, _ in _OLD_NORMS for name in like.names):
        modern = {name: name for name in base.names}
    ours = [new for new, old in modern.items() if is_merged(new, unmerged) and not _is_buffer(base, old)]
    theirs = [name for name in like.names if is_merged(name, unmerged) and not _is_buffer(like, name)]
    for spelling in _spellings(ours, theirs):
        if sorted(map(spelling, ours)) == theirs:
            names = {spelling(new): old for new, old in modern.items()}
            return base if all(new == old for new, old in names.items()) else renamed(base, names)
    return base


def _spellings(ours: Sequence[str], theirs: Sequence[str]) -> Iterator[Callable[[str], str]]:
    """Ways to write one list of names that may give the other: as they are, with a prefix more, with one less."""
    yield str
    if not ours:
        return
    for name in theirs:
        if name.endswith(f".{ours[0]}"):
            yield partial(_prefixed, name.removesuffix(ours[0]))
        if ours[0].endswith(f".{name}"):
            yield partial(_cut, ours[0].removesuffix(name))


def _prefixed(prefix: str, name: str) -> str:
    return prefix + name


def _cut(prefix: str, name: str) -> str:
    return name.removeprefix(prefix)


def _modern(name: str) -> str:
    for old, new in _OLD_NORMS:
        name = name.replace(old, new)
    return name


def _without_buffers(model: Checkpoint, kept: Collection[str]) -> Checkpoint:
    names = [name for name in model.names if name in kept or not _is_buffer(model, name)]
    return model if len(names) == len(model.names) else renamed(model, {name: name for name in names})


def _is_buffer(model: Checkpoint, name: str) -> bool:
    """Told from the name, and a mask `[1, 1, length, length]` from a bias by its shape."""
    shape = model.shapes[name]
    if _MASK.search(name):
        return shape[:-2] == (1, 1) or shape in ((), (1,))
    return _BUFFER.search(name) is not None
