"""The models of a merge config, opened."""

from collections.abc import Mapping
from pathlib import Path

from merging.adapters import open_expert
from merging.alignment import aligned
from merging.checkpoint import Checkpoint
from merging.errors import CheckpointError
from merging.mergekit.grammar import MergeConfig
from merging.mergekit.reference import ModelReference, located_reference

Opened = dict[str, Checkpoint]
"""By the text of their reference in the config, the base first, then in the config's order."""


def open_models(config: MergeConfig, folder: Path, named: Mapping[str, Path] | None = None) -> Opened:
    """Local paths are relative to `folder`, or to where the command is given; `named` has results of other merges.

    An adapter by itself lies over `base_model`. Raises `CheckpointError` where a model cannot be opened.
    """
    plain: dict[str, Checkpoint] = {}

    def opened(written: ModelReference) -> Checkpoint:
        reference = located_reference(written, folder, named or {})
        key = str(reference.model)
        if key not in plain:
            base = next(iter(plain.values()), None) if config.base_model is not None else None
            plain[key] = open_expert(reference.model.source(), base)
        if reference.lora is None:
            return plain[key]
        laid = open_expert(reference.lora.source(), plain[key])
        if laid.overlay is None:
            raise CheckpointError(
                f"{written}: an adapter must stand behind the `+`, but {reference.lora} is a whole model; name it as a "
                "model of its own."
            )
        return laid

    found = {str(reference): opened(reference) for reference in config.references()}
    if len(found) == 1:
        return found
    # a base without the head's prefix has other names for the same tensors, and old files store what is computed now
    models = list(found.values())
    base = models.pop(0) if config.base_model is not None else None
    spelled, others = aligned(base, models, ())
    return dict(zip(found, [*([spelled] if spelled is not None else []), *others], strict=True))
