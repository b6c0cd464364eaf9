"""Train the base on all skills, then an expert of each from it."""

import copy
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from muon import Muon
from network import examples_to_tensors, new_model
from skills import EXPERTS, SKILLS, draw
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import LlamaForCausalLM

Say = Callable[[str], None]


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how fast: warm-up over `warmup` steps, then linear decay to zero."""

    steps: int
    rate: float  # AdamW's learning rate
    batch: int = 64
    warmup: int = 20


# The base stops early on purpose: a finished one leaves the experts nothing to add. The experts learn slowly on
# purpose: at 1e-3 they drift so far apart that no merge of them helps.
BASE = Schedule(steps=220, rate=3e-3)
EXPERT = Schedule(steps=120, rate=5e-4)
MUON_RATE = 0.02


def train_all(seed: int, say: Say) -> Iterator[tuple[str, LlamaForCausalLM]]:
    """The base, then the experts in their order, each with its name."""
    base = new_model(seed)
    muon = Muon([p for p in base.model.layers.parameters() if p.ndim == 2], lr=MUON_RATE)
    rest = [p for name, p in base.named_parameters() if p.ndim != 2 or "layers" not in name]
    adam = AdamW(rest, lr=BASE.rate, weight_decay=0.0)
    _train(base, "base", tuple(SKILLS), BASE, [muon, adam], random.Random(f"{seed}:base"), say)
    yield "base", base
    for skill in EXPERTS:
        expert = copy.deepcopy(base)
        adam = AdamW(expert.parameters(), lr=EXPERT.rate, weight_decay=0.0)
        _train(expert, skill, (skill,), EXPERT, [adam], random.Random(f"{seed}:{skill}"), say)
        yield skill, expert


def _train(
    model: LlamaForCausalLM,
    name: str,
    skills: Sequence[str],
    schedule: Schedule,
    optimizers: Sequence[Optimizer],
    rng: random.Random,
    say: Say,
) -> None:
    """Train in place on training prompts of the skills in turn; the loss is on answer and `<eos>` only."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / schedule.warmup) * (1.0 - step / schedule.steps)

    schedulers = [LambdaLR(optimizer, factor) for optimizer in optimizers]
    turns = itertools.cycle([draw(skill, "train", rng) for skill in skills])
    began, model = time.perf_counter(), model.train()
    for step in range(1, schedule.steps + 1):
        inputs, labels = examples_to_tensors([next(next(turns)) for _ in range(schedule.batch)])
        logits = model(inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        model.zero_grad(set_to_none=True)
        if step % 40 == 0 or step == schedule.steps:
            say(f"{name}: step {step} of {schedule.steps}, loss {loss.item():.3f}, {time.perf_counter() - began:.0f} s")
    model.eval()  # type: ignore[no-untyped-call]
