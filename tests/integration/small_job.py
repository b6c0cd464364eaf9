"""A whole job on random models, small enough that submitting it takes a second; tests break one thing of it."""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.integration.evaluators.small_tasks import (
    CHOICE,
    LETTER,
    character_tokenizer,
    choice_rows,
    letter_rows,
    small_llama,
    write_task,
)

EXPERTS = ("north", "south", "west")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Shop:
    """`models/base` and one folder per expert; `tasks` with `letter`, `pick` and, with four documents, `few`."""

    models: Path
    tasks: Path

    def copy(self, folder: Path) -> "Shop":
        """A shop with models of its own, for a test that damages them."""
        shutil.copytree(self.models, folder / "models")
        return Shop(folder / "models", self.tasks)


def make_shop(folder: Path) -> Shop:
    """Random weights: what a refusal looks at is everything but quality."""
    base = small_llama(seed=1)
    tokenizer = character_tokenizer(chat=False)
    for seed, name in enumerate(("base", *EXPERTS)):
        tuned = copy.deepcopy(base)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01 * (name != "base"))
        tuned.save_pretrained(folder / "models" / name)
        tokenizer.save_pretrained(folder / "models" / name)
    tasks = folder / "tasks"
    tasks.mkdir()
    write_task(tasks, "letter", {"validation": letter_rows(2, 40), "test": letter_rows(3, 30)}, **LETTER)
    write_task(tasks, "pick", {"test": choice_rows(1, 60)}, **CHOICE)
    write_task(tasks, "few", {"test": letter_rows(9, 4)}, **LETTER)
    return Shop(folder / "models", tasks)


def job_content(shop: Shop) -> dict[str, Any]:
    """A job file that is accepted."""
    return {
        "name": "small",
        "models": {
            "base": str(shop.models / "base"),
            "experts": {name: str(shop.models / name) for name in EXPERTS},
        },
        "method": "task_arithmetic",
        "space": {"granularity": "layerwise"},
        "evaluate": {"include_path": str(shop.tasks), "tasks": ["letter"]},
        "search": {"engine": "random", "budget": {"trials": 20}},
    }


def write_job(shop: Shop, folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """The job file `job.yaml` in `folder`. A change is written at its dotted key; None takes the key out."""
    content = job_content(shop)
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        inner = content
        for part in path:
            inner = inner.setdefault(part, {})
        inner.pop(last, None)
        if value is not None:
            inner[last] = value
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file
