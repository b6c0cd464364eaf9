"""Logits of a classifier that gradients flow through."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from evaluators.classifier.classifier import Classifier
from evaluators.classifier.heads import Head
from evaluators.classifier.texts import Encoded, Text
from evaluators.lm.differentiable import tokens_at_once
from evaluators.lm.forward import timed
from evaluators.lm.memory import backing_off
from evaluators.meter import Meter
from evaluators.modes import evaluating
from evaluators.twins import check_finite


class DifferentiableClassifier(Classifier):
    """A classifier asked for cross-entropies and their gradients."""

    def backward(
        self,
        texts: Mapping[str, Text],
        gold: Mapping[str, int],
        factors: Mapping[str, float],
        meter: Meter,
        head: Head | None = None,
    ) -> dict[str, float]:
        """Each example's cross-entropy in nats; the gradient of their sum, each times its factor, is added.

        A `head` that takes the place of the model's own gets no gradient. Raises `ScoringError` where a loss is not
        finite, before the backward pass of its example.
        """
        losses: dict[str, float] = {}
        with meter.stage("forward"), evaluating(self.model):
            instead = {} if head is None else head.tensors
            tensors = {name: tensor.to(self._device, self._dtype) for name, tensor in instead.items()}
            rows = dict(zip(texts, self._encoder.encode(list(texts.values())), strict=True))
            with torch.no_grad():
                self._may_pad(list(rows.values()), tensors)  # tried out on the shortest and the longest of all
            waiting = sorted(rows, key=lambda name: -len(rows[name].ids))
            while waiting:
                names = waiting[: self._fitting([rows[name] for name in waiting])]
                logits = backing_off(partial(self._some, [rows[name] for name in names], tensors, meter))
                names = names[: len(logits)]
                wanted = torch.tensor([gold[name] for name in names])
                values = torch.nn.functional.cross_entropy(logits.double(), wanted, reduction="none")
                for name, value in zip(names, values.tolist(), strict=True):
                    losses[name] = check_finite(name, value)
                with timed(meter, "forward", 0, self._device):
                    weights = torch.tensor([factors[name] for name in names], dtype=values.dtype)
                    torch.autograd.backward(values @ weights)
                del logits, values
                waiting = waiting[len(names) :]
        return losses

    def _some(self, rows: Sequence[Encoded], head: dict[str, Tensor], meter: Meter, share: float) -> Tensor:
        """The logits of the first rows, float32 [some, labels], with what a backward pass needs."""
        some = rows[: max(1, int(share * len(rows)))]
        with torch.enable_grad():
            return self._all(some, len(some) * max(len(row.ids) for row in some), head, meter)

    def _fitting(self, rows: Sequence[Encoded]) -> int:
        """How many of the rows, longest first, one backward pass may hold."""
        budget = min(self._budget(1.0), tokens_at_once(self._config, self._device, self._dtype))
        return max(1, budget // len(rows[0].ids))
