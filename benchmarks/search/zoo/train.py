"""Train a zoo's base on all skills, then an expert of each from it."""

import copy
import itertools
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.search.zoo.kinds import Zoo

Weights = dict[str, dict[str, Tensor]]  # model, then tensor


def trained(zoo: Zoo, folder: Path, seed: int) -> Weights:
    """The weights of the base and of every expert, from `folder` where they were trained before."""
    found: Weights = {}
    names = ("base", *zoo.skills)
    home = folder / f"{zoo.trained_as}-{seed}"
    if not all((home / f"{name}.safetensors").is_file() for name in names):
        _train_all(zoo, home, seed)
    for name in names:
        found[name] = load_file(home / f"{name}.safetensors")
    return found


def new_model(zoo: Zoo, seed: int = 0) -> Any:
    """An untrained model of the zoo's architecture, float32."""
    from network import VOCABULARY  # type: ignore[import-not-found]
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shared = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": zoo.hidden,
        "intermediate_size": 2 * zoo.hidden,
        "num_hidden_layers": zoo.layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
    if zoo.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shared))
    return GPTNeoXForCausalLM(GPTNeoXConfig(**shared, use_parallel_residual=False))


def _train_all(zoo: Zoo, home: Path, seed: int) -> None:
    from muon import Muon  # type: ignore[import-not-found]
    from skills import SKILLS  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    base = new_model(zoo, seed)
    body = [p for name, p in base.named_parameters() if p.ndim == 2 and "layers" in name]
    rest = [p for name, p in base.named_parameters() if p.ndim != 2 or "layers" not in name]
    optimizers = [Muon(body, lr=0.02), AdamW(rest, lr=3e-3, weight_decay=0.0)]
    _train(base, tuple(SKILLS), zoo.base_steps, optimizers, random.Random(f"{seed}:base"))
    _save(base, home / "base.safetensors")
    for skill in zoo.skills:
        expert = copy.deepcopy(base)
        adam = AdamW(expert.parameters(), lr=zoo.expert_rate, weight_decay=0.0)
        _train(expert, (skill,), zoo.expert_steps, [adam], random.Random(f"{seed}:{skill}"))
        _save(expert, home / f"{skill}.safetensors")


def _train(
    model: nn.Module, skills: Sequence[str], steps: int, optimizers: Sequence[Optimizer], rng: random.Random
) -> None:
    from network import examples_to_tensors
    from skills import draw

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / 20) * (1.0 - step / steps)

    schedulers = [LambdaLR(optimizer, factor) for optimizer in optimizers]
    turns = itertools.cycle([draw(skill, "train", rng) for skill in skills])
    model.train()
    for _ in range(steps):
        inputs, labels = examples_to_tensors([next(next(turns)) for _ in range(64)])
        logits = model(inputs, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        model.zero_grad(set_to_none=True)
    model.eval()


def _save(model: nn.Module, path: Path) -> None:
    """Beside, then renamed: a file of that name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        whole = Path(beside) / path.name
        save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, whole)
        os.replace(whole, path)
