"""Measure the tiny models: parents, plain merges and tuned ones. `python examples/tiny/measure.py [--search]`.

Plain torch arithmetic and nothing of this project's packages, so that its figures check theirs. What is tuned is tuned
on validation examples; every figure printed is for the test examples, unless it says "claims".
"""

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import cmaes
import numpy as np
import torch
from network import examples_to_tensors, greedy
from safetensors.torch import load_file
from skills import EXPERTS
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

GROUPS = 10  # 4 layers × {attention with norms, mlp}, embeddings, head with the last norm
OBJECTIVES = ("exact match", "probability", "probability per token", "log-likelihood")
Document = dict[str, str | int | list[str]]
Batches = list[tuple[str, Tensor, Tensor]]


def open_model(folder: Path) -> LlamaForCausalLM:
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder)
    return model.eval()  # type: ignore


class Merges:
    """One model whose weights are set to base + coefficients × task vectors."""

    def __init__(self, folder: Path) -> None:
        tuned = [load_file(folder / skill / "model.safetensors") for skill in EXPERTS]
        self.base = load_file(folder / "base" / "model.safetensors")
        self.vectors = {name: torch.stack([t[name] - base for t in tuned]) for name, base in self.base.items()}
        self.model = open_model(folder / "base")
        self.parameters = dict(self.model.named_parameters())

    def merged(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Weights for coefficients `[GROUPS, experts]`."""
        return {
            name: base + torch.einsum("e,e...->...", coefficients[group_of(name)], self.vectors[name])
            for name, base in self.base.items()
        }

    @torch.no_grad()
    def load(self, coefficients: Tensor) -> LlamaForCausalLM:
        for name, weight in self.merged(coefficients).items():
            self.parameters[name].copy_(weight)
        return self.model


def group_of(name: str) -> int:
    """Which of the `GROUPS` a tensor belongs to."""
    if "layers" not in name:
        return 8 if "embed" in name else 9
    return 2 * int(name.split(".")[2]) + (".mlp." in name)


def read(folder: Path, part: str, count: int | None = None) -> dict[str, list[Document]]:
    """The first `count` documents of each skill."""
    found = {}
    for skill in EXPERTS:
        lines = (folder / f"{skill}.{part}.jsonl").read_text().splitlines()
        found[skill] = [json.loads(line) for line in lines[:count]]
    return found


def pairs_of(documents: Sequence[Document]) -> list[tuple[str, str]]:
    return [(str(document["prompt"]), str(document["answer"])) for document in documents]


def batches_of(pairs: Mapping[str, Sequence[tuple[str, str]]], size: int = 250) -> Batches:
    """Inputs and labels of examples of similar length together."""
    found: Batches = []
    for skill, several in pairs.items():
        ordered = sorted(several, key=lambda pair: len(pair[0]) + len(pair[1]))
        chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        found += [(skill, *examples_to_tensors(chunk)) for chunk in chunks]
    return found


def score(logits: Tensor, labels: Tensor) -> Tensor:
    """The four objectives `[4, examples]`, in the order of `OBJECTIVES`, by teacher forcing.

    Each token of the answer is the most likely one after the right tokens before it exactly where greedy decoding
    gives the whole answer.
    """
    answer = labels >= 0
    right = ((logits.argmax(-1) == labels) | ~answer).all(1)
    logs = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0] * answer
    total = logs.sum(1)
    return torch.stack([right.float(), total.exp(), (total / answer.sum(1)).exp(), total])


@torch.inference_mode()
def scores(model: LlamaForCausalLM, batches: Batches) -> dict[str, Tensor]:
    """Per skill the means of the four objectives."""
    found: dict[str, list[Tensor]] = {}
    for skill, inputs, labels in batches:
        found.setdefault(skill, []).append(score(model(inputs, use_cache=False).logits, labels))
    return {skill: torch.cat(parts, dim=1).mean(1) for skill, parts in found.items()}


def mean(per_skill: Mapping[str, Tensor], objective: int = 0) -> float:
    return float(np.mean([float(values[objective]) for values in per_skill.values()]))


@torch.inference_mode()
def choice_accuracy(model: LlamaForCausalLM, documents: Mapping[str, Sequence[Document]]) -> float:
    """The share of documents whose right option is the likeliest."""
    found = []
    for several in documents.values():
        for start in range(0, len(several), 125):
            some = several[start : start + 125]
            options = [(str(d["prompt"]), option) for d in some for option in d["options"]]  # type: ignore[union-attr]
            inputs, labels = examples_to_tensors(options)
            totals = score(model(inputs, use_cache=False).logits, labels)[3].view(len(some), -1)
            found += [int(best) == d["label"] for best, d in zip(totals.argmax(1), some, strict=True)]
    return float(np.mean(found))


def by_gradient(merges: Merges, pairs: Mapping[str, list[tuple[str, str]]], shared: bool, seed: int) -> Tensor:
    """Coefficients from 120 steps of Adam on the log-likelihood of 192 validation examples each.

    `shared` makes them one per expert, the same for every group.
    """
    free = torch.full((1 if shared else GROUPS, len(EXPERTS)), 1 / 3, requires_grad=True)
    adam, steps, rng = torch.optim.Adam([free], lr=0.04), 120, random.Random(seed)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / steps)
    for _ in range(steps):
        inputs, labels = examples_to_tensors([pair for skill in EXPERTS for pair in rng.sample(pairs[skill], 64)])
        weights = merges.merged(free.expand(GROUPS, -1))
        output = torch.func.functional_call(merges.model, weights, (inputs,), {"use_cache": False})
        adam.zero_grad()
        (-score(output.logits, labels)[3].mean()).backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
    return free.detach().expand(GROUPS, -1)


def by_cmaes(
    merges: Merges, batches: Batches, objective: int, bounds: tuple[float, float], trials: int, seed: int
) -> tuple[Tensor, Tensor, float]:
    """The best coefficients seen, the mean of the last distribution, and the value claimed for the best seen."""
    size = GROUPS * len(EXPERTS)
    search = cmaes.CMA(
        np.full(size, 1 / 3), 0.2, bounds=np.array([bounds] * size), seed=seed, population_size=12, n_max_resampling=100
    )
    seen: list[tuple[float, np.ndarray]] = []
    while len(seen) < trials:
        asked = [search.ask() for _ in range(search.population_size)]
        told = [mean(scores(merges.load(_tensor(x)), batches), objective) for x in asked]
        search.tell([(x, -value) for x, value in zip(asked, told, strict=True)])
        seen += zip(told, asked, strict=True)
    claimed, best = max(seen, key=lambda pair: pair[0])
    return _tensor(best), _tensor(np.clip(search.mean, *bounds)), claimed


def _tensor(x: np.ndarray) -> Tensor:
    return torch.tensor(x, dtype=torch.float32).view(GROUPS, len(EXPERTS))


class Table:
    """Prints test scores, one row a model."""

    def __init__(self, documents: Mapping[str, list[Document]]) -> None:
        self.documents = documents
        self.batches = batches_of({skill: pairs_of(several) for skill, several in documents.items()})
        print(f"| model | mean | {' | '.join(EXPERTS)} | choice |\n|---|---|{'---|' * len(EXPERTS)}---|")

    def row(self, name: str, model: LlamaForCausalLM, choice: bool = True) -> None:
        per_skill = scores(model, self.batches)
        values = [mean(per_skill), *(float(per_skill[skill][0]) for skill in EXPERTS)]
        values += [choice_accuracy(model, self.documents)] if choice else []
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the tiny models and merges of them.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where make.py put them")
    parser.add_argument("--search", action="store_true", help="also six black-box searches of --trials evaluations")
    parser.add_argument("--trials", type=int, default=252)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    merges, documents = Merges(options.out / "models"), read(options.out / "tasks", "test")
    table = Table(documents)
    for name in ("base", *EXPERTS):
        model = open_model(options.out / "models" / name)
        table.row(name, model)
        check_greedy(model, documents)
    table.row("uniform average", merges.load(torch.full((GROUPS, len(EXPERTS)), 1 / 3)))
    for scale in range(1, 11):
        coefficients = torch.full((GROUPS, len(EXPERTS)), scale / 10)
        table.row(f"task arithmetic {scale / 10}", merges.load(coefficients), choice=False)
    pairs = {skill: pairs_of(several) for skill, several in read(options.out / "tasks", "validation").items()}
    table.row("one scale per expert, gradient", merges.load(by_gradient(merges, pairs, True, options.seed)))
    table.row("layer × module (30), gradient", merges.load(by_gradient(merges, pairs, False, options.seed)))
    if options.search:
        measure_searches(merges, table, batches_of({s: p[:250] for s, p in pairs.items()}), options)


def check_greedy(model: LlamaForCausalLM, documents: Mapping[str, Sequence[Document]]) -> None:
    """Refuse to go on where greedy decoding and teacher forcing disagree."""
    for skill, several in documents.items():
        pairs = pairs_of(several)
        answers = greedy(model, [prompt for prompt, _ in pairs])
        decoded = [answer == gold for answer, (_, gold) in zip(answers, pairs, strict=True)]
        forced = float(scores(model, batches_of({skill: pairs}))[skill][0])
        if abs(forced - float(np.mean(decoded))) > 1e-6:
            raise SystemExit(f"{skill}: greedy decoding scores {np.mean(decoded):.4f}, teacher forcing {forced:.4f}.")


def measure_searches(merges: Merges, table: Table, batches: Batches, options: argparse.Namespace) -> None:
    for bounds in ((0.0, 1.0), (-0.25, 1.5)):
        for objective, name in enumerate(OBJECTIVES[:3]):
            began = time.process_time()
            best, middle, claimed = by_cmaes(merges, batches, objective, bounds, options.trials, options.seed)
            seconds = (time.process_time() - began) / options.trials
            title = f"CMA-ES {list(bounds)} on {name}"
            table.row(f"{title}: best seen (claims {claimed:.3f}, {seconds:.2f} s each)", merges.load(best))
            table.row(f"{title}: mean of the distribution", merges.load(middle))


if __name__ == "__main__":
    main()
