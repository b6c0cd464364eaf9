"""Tell whether models can be merged: same tensors, same architecture, same tokens, finite weights."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from merging.checkpoint import Checkpoint
from merging.errors import CheckpointError
from merging.groups import group_of, is_merged
from merging.tokens import tokenizer_difference

_FEW = 3


def check_compatible(base: Checkpoint, experts: Sequence[Checkpoint], unmerged: Collection[str] = ()) -> None:
    """Raises `CheckpointError` with one line for each mismatch (see `mismatches`)."""
    found = mismatches(base, experts, unmerged)
    if found:
        raise CheckpointError("\n".join(found))


def mismatches(base: Checkpoint, experts: Sequence[Checkpoint], unmerged: Collection[str] = ()) -> list[str]:
    """Where an expert's config, tensor names or shapes differ from the base's, one sentence each.

    Pass the first expert as `base` where a merge has none. Dtypes may differ: arithmetic is in float32. What belongs to
    the modules `unmerged` may differ too: their tensors, and the model's class where its head is one of them.
    """
    return [line for expert in experts for line in _between(base, expert, unmerged)]


def check_tokenizers(base: Checkpoint, experts: Sequence[Checkpoint]) -> None:
    """Raises `CheckpointError` with one line for each expert that maps tokens to other ids than the base."""
    found = tokenizer_mismatches(base, experts)
    if found:
        raise CheckpointError("\n".join(found))


def tokenizer_mismatches(base: Checkpoint, experts: Sequence[Checkpoint]) -> list[str]:
    """Where an expert's tokenizer maps tokens to other ids than the base's. One without is skipped."""
    found = []
    for expert in experts:
        difference = tokenizer_difference(base.folder, expert.folder)
        if difference is not None:
            found.append(
                f"{expert.folder}: must map tokens to the same ids as {base.folder}, but {difference}. "
                "Rows of the embeddings would be averaged that stand for different tokens."
            )
    return found


def non_finite(checkpoint: Checkpoint, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """The names of the tensors that hold NaN or infinity. Reads all weights. `on_progress(done, tensors)`.

    Of an adapter, its own tensors if some of them do, else those that it makes of its base.
    """
    found = checkpoint.overlay.non_finite() if checkpoint.overlay is not None else []
    if found:
        return found
    for done, name in enumerate(checkpoint.names, start=1):
        if checkpoint.is_float(name) and 0 not in checkpoint.shapes[name]:
            low, high = checkpoint.tensor(name).aminmax()  # a NaN anywhere makes both NaN
            if not (math.isfinite(low.item()) and math.isfinite(high.item())):
                found.append(name)
        if on_progress is not None:
            on_progress(done, len(checkpoint.names))
    return found


def _between(base: Checkpoint, expert: Checkpoint, unmerged: Collection[str]) -> list[str]:
    lines = []
    for key, module in (("model_type", None), ("architectures", "head"), ("vocab_size", "embeddings")):
        if module in unmerged:
            continue
        ours, theirs = _setting(base.config, key), _setting(expert.config, key)
        if ours is not None and theirs is not None and ours != theirs:
            lines.append(f"{expert.folder}: `{key}` must be {ours!r} as in {base.folder}, but is {theirs!r}.")
    ours_merged, theirs_merged = ([name for name in one.names if is_merged(name, unmerged)] for one in (base, expert))
    missing = [name for name in ours_merged if name not in expert.shapes]
    if missing:
        lines.append(f"{expert.folder}: lacks {_few(missing)} of {base.folder}." + _only_heads(missing))
    extra = [name for name in theirs_merged if name not in base.shapes]
    if extra:
        lines.append(f"{expert.folder}: has {_few(extra)} that {base.folder} lacks." + _only_heads(extra))
    common = [name for name in ours_merged if name in expert.shapes]
    shapes = [name for name in common if expert.shapes[name] != base.shapes[name]]
    if shapes:
        shown = "; ".join(f"`{name}` {base.shapes[name]} and {expert.shapes[name]}" for name in shapes[:_FEW])
        lines.append(
            f"{expert.folder}: shapes must be those of {base.folder}, but {len(shapes)} differ: {shown}."
            + (_only_heads(shapes) or _only_tokens(shapes))
        )
    kinds = [name for name in common if expert.is_float(name) != base.is_float(name)]
    if kinds:
        name = kinds[0]
        lines.append(f"{expert.folder}: `{name}` is {expert.dtypes[name]}, but {base.dtypes[name]} in {base.folder}.")
    return lines


def _setting(config: dict[str, Any], key: str) -> Any:
    """A setting of the config, or of the language model inside a multimodal one."""
    inner = config.get("text_config")
    return config.get(key, inner.get(key) if isinstance(inner, dict) else None)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_FEW])
    rest = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"{len(names)} tensors ({shown}{rest})"


def _only_heads(names: Sequence[str]) -> str:
    if any(is_merged(name, ("head",)) for name in names):
        return ""
    return " Only the heads differ: leave them out of the merge with `unmerged: [head]`."


def _only_tokens(names: Sequence[str]) -> str:
    if all(group_of(name).module in ("embeddings", "head") for name in names):
        return " Only embeddings or head differ: tokens were added. Cut both to the same vocabulary first."
    return ""
