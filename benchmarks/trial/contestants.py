"""The ways to run a trial that are compared: ours, lm-eval with a loaded model, and the incumbent's lifecycle."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.harness import HarnessEvaluator
from evaluators.lm_eval_tasks import LmEvalSpec
from evaluators.meter import Meter
from evaluators.shares import Splits
from merging.groups import groups_of
from merging.kept_directions import KeptDirections
from merging.live import LiveMerge
from merging.materialize import Sources, materialize
from merging.recipe import Recipe, Source
from merging.resident import load_into


@dataclass
class Ours:
    """A worker's trial: the recipe into the resident model, then the scores."""

    model: LlamaForCausalLM
    sources: Sources
    live: LiveMerge
    evaluator: HarnessEvaluator

    def fill(self, recipe: Recipe) -> None:
        """The recipe's weights into the resident model."""
        self.live.fill(recipe)

    def trial(self, recipe: Recipe, most: int | None = None) -> Meter:
        """One trial over every example, or the first `most`; where its time went."""
        meter = Meter()
        with meter.stage("materialize"):
            self.fill(recipe)
        self.evaluator.score(self.model, [example.id for example in self.evaluator.examples()][:most], meter)
        return meter


@dataclass
class LoadedModel:
    """lm-eval's own model around a loaded one, scored by `simple_evaluate`: no merge, no load."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    tasks: Path
    task: str
    batch_size: int

    def trial(self) -> None:
        lm_eval.simple_evaluate(
            HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=self.batch_size),
            tasks=[self.task],
            task_manager=TaskManager(include_path=str(self.tasks), include_defaults=False),
            bootstrap_iters=0,
        )


@dataclass
class FromDisk:
    """What mergekit-evolve does for a trial: the merge written as a checkpoint, loaded, scored, deleted."""

    ours: Ours
    loaded: LoadedModel
    folder: Path

    def trial(self, recipe: Recipe) -> None:
        target = self.folder / "candidate"
        load_into(self.ours.model, materialize(recipe, self.ours.sources))
        self.ours.model.save_pretrained(target)
        model = AutoModelForCausalLM.from_pretrained(target, dtype=self.ours.model.dtype).to(self.ours.model.device)
        LoadedModel(model, self.loaded.tokenizer, self.loaded.tasks, self.loaded.task, self.loaded.batch_size).trial()
        shutil.rmtree(target)


def open_ours(paths: list[Path], tasks: Path, task: str, dtype: torch.dtype, device: str) -> Ours:
    """The resident model, the opened sources and the prepared evaluator: what a worker has before its first trial."""
    template = Recipe(
        method="task_arithmetic",
        base=Source(path=str(paths[0])),
        experts={path.name: Source(path=str(path)) for path in paths[1:]},
        coefficients={},
    )
    sources = Sources(template)
    model = LlamaForCausalLM.from_pretrained(paths[0], dtype=dtype).to(device).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(paths[0])
    evaluator = HarnessEvaluator(LmEvalSpec(tasks=[task], include_path=str(tasks)), Splits(), tokenizer)
    return Ours(model, sources, LiveMerge(model, sources, KeptDirections(sources)), evaluator)


def recipe(sources: Sources, scale: float) -> Recipe:
    """Task arithmetic with another row in every group: nothing of the last trial can be kept."""
    groups = groups_of(sources.reference.names)
    rows = {group.name: (scale, scale + 0.01 * place, 0.3) for place, group in enumerate(groups)}
    assert sources.base is not None
    return Recipe(
        method="task_arithmetic",
        base=sources.base.source,
        experts={name: expert.source for name, expert in sources.experts.items()},
        coefficients=rows,
    )
