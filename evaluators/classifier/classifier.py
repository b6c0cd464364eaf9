"""Everything a sequence classification model is asked, in one place that stays while its weights change."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evaluators.classifier.heads import Head
from evaluators.classifier.texts import Encoded, Encoder, Text
from evaluators.lm.forward import timed
from evaluators.lm.memory import backing_off, token_budget
from evaluators.meter import Meter
from evaluators.modes import evaluating

_ENOUGH = 512  # tokens: more of them are no faster each on a CPU core
_ALIKE = 0.9


class Classifier:
    """A resident model and its tokenizer. Its weights may change between calls; what is kept depends on tokens alone.

    Every text gets the logits it would get alone, up to rounding. Texts of different length are padded to one where
    a trial run has shown that this model's answers stay the same; they are not where it takes padding for text.
    `batch_tokens` bounds the tokens of a batch, sized to memory where it is None; where memory runs out all the same, a
    call is repeated with half of it.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, batch_tokens: int | None = None) -> None:
        self.model = model
        self._config: Any = model.config
        self._encoder = Encoder(model, tokenizer)
        self._batch_tokens = batch_tokens
        self._taken = inspect.signature(model.forward).parameters
        self._pads: bool | None = None

    @torch.no_grad()
    def logits(self, texts: Sequence[Text], meter: Meter | None = None, head: Head | None = None) -> Tensor:
        """float32 [texts, labels] on the CPU, by the model's own head or by another in its place.

        The model is in eval mode meanwhile, and its own head is never written to. `head` must fit (`check_fits`).
        """
        if not texts:
            return torch.empty((0, int(self._config.num_labels)))
        meter = meter or Meter()
        distinct = list(dict.fromkeys(texts))
        with meter.stage("forward"), evaluating(self.model):
            instead = {} if head is None else head.tensors
            tensors = {name: tensor.to(self._device, self._dtype) for name, tensor in instead.items()}
            rows = self._encoder.encode(distinct)
            found = backing_off(lambda share: self._all(rows, self._budget(share), tensors, meter))
        place = {text: number for number, text in enumerate(distinct)}
        return found[[place[text] for text in texts]]

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _budget(self, share: float) -> int:
        return max(1, int(share * (self._batch_tokens or token_budget(self._config, self._device, self._dtype))))

    def _all(self, rows: Sequence[Encoded], budget: int, head: dict[str, Tensor], meter: Meter) -> Tensor:
        pads = self._may_pad(rows, head)
        found: list[Tensor | None] = [None] * len(rows)
        for batch in _batches(rows, budget, pads):
            logits = self._run([rows[place] for place in batch], head, meter)
            for place, answer in zip(batch, logits, strict=True):
                found[place] = answer
        return torch.stack([one for one in found if one is not None])

    def _may_pad(self, rows: Sequence[Encoded], head: dict[str, Tensor]) -> bool:
        """Whether the shortest and the longest row are answered together as they are alone; kept once it is sure."""
        if self._pads is not None:
            return self._pads
        pair = [min(rows, key=lambda row: len(row.ids)), max(rows, key=lambda row: len(row.ids))]
        if len(pair[0].ids) == len(pair[1].ids):
            return False
        alone = torch.cat([self._run([row], head, Meter()) for row in pair])
        size = float(alone.abs().max())
        if not torch.isfinite(alone).all() or size == 0 or torch.equal(alone[0], alone[1]):
            return False  # nothing can be told of these weights
        try:
            together = self._run(pair, head, Meter())
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a model's code says to padding
            self._pads = False
        else:
            tolerance = 1e-3 if self._dtype == torch.float32 else 5e-2
            self._pads = bool((together - alone).abs().max() <= tolerance * size)
        return self._pads

    def _run(self, rows: Sequence[Encoded], head: dict[str, Tensor], meter: Meter) -> Tensor:
        """float32 [rows, labels] on the CPU."""
        inputs: dict[str, Any] = {name: tensor.to(self._device) for name, tensor in self._inputs(rows).items()}
        if "use_cache" in self._taken:
            inputs["use_cache"] = False
        used = sum(len(row.ids) for row in rows)
        with timed(meter, "forward", used, self._device), _last_token_found(self._config):
            said = functional_call(self.model, head, (), inputs) if head else self.model(**inputs)
            logits: Tensor = said.logits
        return logits.float().cpu()

    def _inputs(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        width = max(len(row.ids) for row in rows)
        padding = getattr(_text(self._config), "pad_token_id", None)
        fill = padding if padding is not None and padding >= 0 else 0
        inputs = {
            "input_ids": torch.tensor([[*row.ids, *[fill] * (width - len(row.ids))] for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows]),
        }
        if "token_type_ids" in self._taken and rows[0].types is not None:
            types = [row.types or (0,) * len(row.ids) for row in rows]
            inputs["token_type_ids"] = torch.tensor([[*row, *[0] * (width - len(row))] for row in types])
        return inputs


def _batches(rows: Sequence[Encoded], budget: int, pads: bool) -> list[list[int]]:
    """The rows by number, longest first, in batches of at most `budget` tokens; of one length unless `pads`.

    A row much shorter than the batch's first begins another once the batch is large enough to keep a processor busy.
    """
    batches: list[list[int]] = []
    width = 0
    for place in sorted(range(len(rows)), key=lambda place: -len(rows[place].ids)):
        length = len(rows[place].ids)
        full = not batches or (len(batches[-1]) + 1) * width > budget
        short = length < _ALIKE * width and len(batches[-1]) * width >= _ENOUGH if pads and batches else length != width
        if full or short:
            batches.append([])
            width = length
        batches[-1].append(place)
    return batches


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


@contextmanager
def _last_token_found(config: Any) -> Iterator[None]:
    """Inside, a decoder without a padding token reads every row at its last token; by itself it refuses batches."""
    text = _text(config)
    if getattr(text, "pad_token_id", None) is not None:
        yield
        return
    text.pad_token_id = -1
    try:
        yield
    finally:
        text.pad_token_id = None
