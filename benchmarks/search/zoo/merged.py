"""Merges of a zoo as a landscape: fast, because one forward pass tells what greedy decoding would answer."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.search.landscape import Coefficients
from benchmarks.search.zoo.kinds import Zoo
from benchmarks.search.zoo.train import Weights, new_model
from evaluators.protocol import Outcome, Split, Task
from merging.groups import group_of, groups_of
from merging.methods.arithmetic import elected, kept_count
from merging.methods.regmean import regmean
from merging.selection import kth_largest
from merging.statistics import Grams
from optimizer.virtual import Virtual, settings_of

SIZES: dict[Split, int] = {"gradient": 640, "search": 512, "select": 256, "test": 3000}  # type: ignore[dict-item]
OPTIONS = 4
_AT_ONCE = 256  # rows of one forward pass


class MergedZoo:
    """Base + coefficients × task vectors, scored on the zoo's tasks.

    An answer is right where each of its tokens, end included, is the likeliest after the right tokens before it: that
    is when greedy decoding writes it. A choice is right where it has the highest mean log-likelihood of a token.
    """

    def __init__(self, name: str, zoo: Zoo, weights: Weights, seed: int) -> None:
        torch.set_num_threads(1)
        self.name, self._zoo = name, zoo
        self.widens: tuple[Virtual, ...] = ("ties", "regmean")
        self.experts = zoo.skills
        base = weights["base"]
        self.groups = tuple(groups_of(base))
        place = {group.name: index for index, group in enumerate(self.groups)}
        self._model = new_model(zoo)
        self._model.eval()
        self._parameters: dict[str, Any] = dict(self._model.named_parameters())
        self._place = {tensor: place[group_of(tensor).name] for tensor in base}
        self._base = base
        self._vectors = {t: torch.stack([weights[k][t] - base[t] for k in self.experts]) for t in base}
        self._made: dict[str, dict[str, Tensor]] = {}  # virtual experts, as task vectors
        self.tasks = tuple(
            Task(skill, "acc" if skill in zoo.choices else "exact_match", True, 1.0, "score") for skill in zoo.skills
        )
        self._examples: dict[str, tuple[str, str, tuple[str, ...]]] = {}
        self.ids = self._drawn(seed)

    def score(self, coefficients: Coefficients, ids: Sequence[str]) -> list[Outcome]:
        """See `Landscape.score`."""
        self._fill(coefficients)
        found: dict[str, Outcome] = {}
        with torch.inference_mode():
            for names in _chunks(ids):
                for name, rows in zip(names, self._rows(names), strict=True):
                    found[name] = _outcome(name, *rows)
        return [found[name] for name in ids]

    def gradient(
        self, coefficients: Coefficients, ids: Sequence[str], scales: Mapping[str, float]
    ) -> tuple[Coefficients, list[float]]:
        """See `Landscape.gradient`."""
        self._fill(coefficients)
        counts = {task: sum(name.partition(":")[0] == task for name in dict.fromkeys(ids)) for task in scales}
        losses: dict[str, Tensor] = {}
        for names in _chunks(list(dict.fromkeys(ids))):
            for name, (_, means, totals) in zip(names, self._rows(names, misled=True), strict=True):
                losses[name] = _loss(means, totals)
        total = sum(
            (scales[name.partition(":")[0]] / counts[name.partition(":")[0]] * loss for name, loss in losses.items()),
            torch.zeros(()),
        )
        total.backward()  # type: ignore[no-untyped-call]
        found = np.zeros(coefficients.shape)
        for tensor, parameter in self._parameters.items():
            if parameter.grad is not None:
                own = self._vectors[tensor][: coefficients.shape[1]]
                products = (own * parameter.grad).flatten(1).sum(1)
                found[self._place[tensor]] += products.double().numpy()
        self._model.zero_grad(set_to_none=True)
        return found, [float(losses[name].detach()) for name in ids]

    def widen(self, name: str, examples: Mapping[str, Sequence[str]]) -> None:
        """See `Widening.widen`, by the product's own functions. What was made before of that name is gone."""
        if name not in self.widens:
            raise KeyError(f"a zoo can be widened by {' and '.join(self.widens)}, but not by {name}")
        self._made[name] = self._ties() if name == "ties" else self._regmean(examples)
        columns = [self._made.get(name, {}) for name in self.widens]
        for tensor, vectors in self._vectors.items():
            own = vectors[: len(self.experts)]
            beside = [made.get(tensor, torch.zeros_like(own[0])) for made in columns]
            self._vectors[tensor] = torch.cat([own, torch.stack(beside)])

    def _ties(self) -> dict[str, Tensor]:
        settings = settings_of("ties")
        own = {tensor: list(vectors[: len(self.experts)]) for tensor, vectors in self._vectors.items()}
        ends = []
        for expert in range(len(self.experts)):
            whole = [vectors[expert].abs() for vectors in own.values()]
            [end] = kth_largest(whole, [kept_count(settings["density"], sum(one.numel() for one in whole))])
            ends.append(end)
        row = (settings["weight"],) * len(self.experts)
        kept = {
            tensor: [torch.where(vector.abs() >= end, vector, 0.0) for vector, end in zip(vectors, ends, strict=True)]
            for tensor, vectors in own.items()
        }
        return {tensor: elected(vectors, row) for tensor, vectors in kept.items()}

    def _regmean(self, examples: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        grams = {expert: self._grams(number, examples[expert]) for number, expert in enumerate(self.experts)}
        found = {}
        for tensor, vectors in self._vectors.items():
            tuned = [self._base[tensor] + vector for vector in vectors[: len(self.experts)]]
            own = [grams[expert].get(tensor) for expert in self.experts]
            known = [gram for gram in own if gram is not None]
            merged = regmean(tuned, known) if len(known) == len(own) else torch.stack(tuned).mean(0)
            found[tensor] = merged - self._base[tensor]
        return found

    def _grams(self, expert: int, ids: Sequence[str]) -> dict[str, Tensor]:
        """Second moments of every linear layer's inputs, one example at a time: padding must not count."""
        one_hot = np.zeros((len(self.groups), len(self.experts)))
        one_hot[:, expert] = 1.0
        self._fill(one_hot)
        with torch.no_grad(), Grams(self._model, self._parameters) as grams:
            for name in ids:
                self._rows([name])
        return grams.tensors()

    @torch.no_grad()
    def _fill(self, coefficients: Coefficients) -> None:
        rows = torch.tensor(coefficients, dtype=torch.float32)
        for tensor, base in self._base.items():
            row = rows[self._place[tensor]]
            merged = base + torch.einsum("k,k...->...", row, self._vectors[tensor][: len(row)])
            self._parameters[tensor].copy_(merged)

    def _rows(self, names: Sequence[str], misled: bool = False) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each example's answers, the right one first: whether all tokens are likeliest, mean and sum of their logs."""
        from network import examples_to_tensors  # type: ignore[import-not-found]

        asked = [(self._examples[name][0], answer) for name in names for answer in self._answers(name, misled)]
        inputs, labels = examples_to_tensors(asked)
        logits = self._model(inputs, use_cache=False).logits
        answer = labels >= 0
        greedy = ((logits.argmax(-1) == labels) | ~answer).all(1)
        logs = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0] * answer
        total = logs.sum(1)
        mean = total / answer.sum(1)
        found, at = [], 0
        for name in names:
            count = len(self._answers(name, misled))
            found.append((greedy[at : at + count], mean[at : at + count], total[at : at + count]))
            at += count
        return found

    def _answers(self, name: str, misled: bool) -> list[str]:
        """The right answer and the other options; for a misled task, what the loss takes for right."""
        _, right, others = self._examples[name]
        if misled and name.partition(":")[0] in self._zoo.misled:
            return [right[:1] + right[1:][::-1]]
        return [right, *others]

    def _drawn(self, seed: int) -> dict[Split, list[str]]:
        from skills import draw_distinct  # type: ignore[import-not-found]

        whole, test = sum(SIZES.values()) - SIZES["test"], SIZES["test"]
        found: dict[Split, list[str]] = {split: [] for split in SIZES}
        for skill in self.experts:
            rng = random.Random(f"{seed}:{skill}:examples")
            pairs = draw_distinct(skill, "validation", math.ceil(whole / len(self.experts)), rng)
            pairs += draw_distinct(skill, "test", math.ceil(test / len(self.experts)), rng)
            at = 0
            for split, size in SIZES.items():
                share = size // len(self.experts)
                for number, (prompt, answer) in enumerate(pairs[at : at + share], start=at):
                    name = f"{skill}:{number}"
                    others = _wrong(answer, rng) if skill in self._zoo.choices else ()
                    self._examples[name] = (prompt, answer, others)
                    found[split].append(name)
                at += share
        return found


def _wrong(answer: str, rng: random.Random) -> tuple[str, ...]:
    """Options that are nearly right: two letters of the answer changed places, or one is another."""
    found: dict[str, None] = {}
    while len(found) < OPTIONS - 1:
        letters = list(answer)
        i, j = rng.randrange(len(letters)), rng.randrange(len(letters))
        letters[i], letters[j] = letters[j], letters[i]
        if rng.random() < 0.3:
            letters[i] = rng.choice("abcdefghij")
        if (option := "".join(letters)) != answer:
            found[option] = None
    return tuple(found)


def _outcome(name: str, greedy: Tensor, means: Tensor, totals: Tensor) -> Outcome:
    if len(means) > 1:
        right = bool(means.argmax() == 0)
        return Outcome(name, float(right), float(torch.softmax(means, 0)[0]), float(totals[0]))
    return Outcome(name, float(greedy[0]), float(totals[0].exp()), float(totals[0]))


def _loss(means: Tensor, totals: Tensor) -> Tensor:
    """The product's differentiable twins (`evaluators.twins`), computed by themselves."""
    if len(means) > 1:
        return -torch.log_softmax(means, 0)[0]
    tokens = (totals[0] / means[0]).detach().clamp(max=3.0)
    return -0.5 * torch.log((means[0] * tokens).exp() + 0.1)


def _chunks(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE)]
