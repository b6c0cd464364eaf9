"""A merge config made ready: models opened, every tensor's step known, nothing read yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merging.checkpoint import Checkpoint
from merging.errors import MergeError
from merging.mergekit.compile import compiled
from merging.mergekit.config_json import config_json
from merging.mergekit.grammar import MergeConfig
from merging.mergekit.open import Opened, open_models
from merging.mergekit.plan import plan
from merging.mergekit.rows import Vocabulary, vocabulary_of
from merging.mergekit.templates import chat_template
from merging.step import Step
from merging.tied import embeddings_for


@dataclass(frozen=True)
class Prepared:
    """What carries a merge out and what its folder needs beside the weights.

    `donor` is the base, or the first model where there is none: config and tokenizer are its, but for `config_json`,
    `vocabulary` where tokens are put together, and `chat_template` where one is asked for.
    """

    config: MergeConfig
    opened: Opened
    steps: tuple[Step, ...]
    donor: Checkpoint
    config_json: dict[str, Any]
    vocabulary: Vocabulary
    chat_template: str | None
    labels: dict[str, tuple[str, ...]]
    """Which models each tensor is made from, as the config names them."""
    seed: int

    @property
    def remarks(self) -> tuple[str, ...]:
        return self.vocabulary.remarks


def prepare(config: MergeConfig, folder: Path, named: Mapping[str, Path] | None = None, seed: int = 0) -> Prepared:
    """Local paths are relative to `folder`, or to where the command is given; `named` has results of other merges.

    Raises `CheckpointError` where a model cannot be opened, `MergeError` where the merge cannot be made.
    """
    opened = open_models(config, folder, named)
    donor = next(iter(opened.values()))
    planned = plan(config, opened)
    vocabulary = vocabulary_of(config, opened, folder)
    steps = compiled(config, planned, vocabulary.rows, seed)
    if not steps:
        raise MergeError("a merge must have something to merge, but its models have no tensors.")
    untied = any(step.name not in donor.shapes and embeddings_for(donor, step.name) is not None for step in steps)
    return Prepared(
        config=config,
        opened=opened,
        steps=tuple(steps),
        donor=donor,
        config_json=config_json(donor, planned, config.out_dtype or config.dtype, vocabulary.size, untied),
        vocabulary=vocabulary,
        chat_template=chat_template(config.chat_template, list(opened.values())),
        labels={one.name: tuple(source.label for source in one.inputs) for one in planned.tensors},
        seed=seed,
    )
