"""Run a transformers model so that nothing is computed that is not read."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from evaluators.lm.batches import Batch, gather
from evaluators.lm.forest import plant
from evaluators.lm.masks import SEEN, additive, step_visibility, tree_visibility
from evaluators.lm.slots import Slots
from evaluators.meter import Meter, Stage

Way = Literal["trees", "chains", "whole"]

_HEAD_ENTRIES = 1 << 24  # logits made at a time: 64 MiB in float32
_DEFAULT_CROSSOVER = 4096.0


class Forward:
    """A model's body and head, called apart.

    `way` says how much of that the model allows, found out by a trial run (`_find_way`): `trees`, rows that branch;
    `chains`, plain padded rows, for models whose layers do not take a mask of ours (state spaces, convolutions,
    ALiBi); `whole`, where even the head cannot be called alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = getattr(model, "config", None)
        self._body: nn.Module = getattr(model, "base_model", model)
        self._kinds = layer_kinds(self.config)
        self._window: int | None = getattr(_text(self.config), "sliding_window", None)
        self._way: Way | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @property
    def way(self) -> Way:
        """How the model is run; tried out on first use and again as long as its weights are not finite."""
        if self._way is not None:
            return self._way
        found, sure = _find_way(self)
        if sure:
            self._way = found
        return found

    def crossover(self) -> float:
        """The row length at which attention costs as much as all matrix products; 0 where rows must be chains.

        A token's matrix products take 2 operations per weight of a layer, its attention 4 per channel and token seen.
        """
        if self.way != "trees":
            return 0.0
        text = _text(self.config)
        layers, width = getattr(text, "num_hidden_layers", 0), getattr(text, "hidden_size", 0)
        if not layers or not width:
            return _DEFAULT_CROSSOVER
        tables = {id(module.weight) for module in self.model.modules() if isinstance(module, nn.Embedding)}
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        tables |= {id(parameter) for parameter in head.parameters()} if head is not None else set()
        weights = sum(one.numel() for one in self.model.parameters() if id(one) not in tables)
        return max(1.0, weights / (2 * layers * width))

    def read(self, batch: Batch, places: Tensor, meter: Meter, stage: Stage) -> Iterator[tuple[int, Tensor]]:
        """The logits at `places` of the flattened batch (int64 [reads]): pieces (first read, [some, vocabulary])."""
        with timed(meter, stage, batch.used, self.device):
            if self.way == "whole":
                hidden = self.model(**self._chains(batch)).logits.flatten(0, 1)[places]
            else:
                inputs = self._trees(batch) if self.way == "trees" else self._chains(batch)
                hidden = self._run_body(**inputs, use_cache=False).flatten(0, 1)[places]
        if self.way == "whole":
            yield 0, hidden
            return
        step = max(1, _HEAD_ENTRIES // self.vocabulary)
        for start in range(0, len(hidden), step):
            with timed(meter, stage, 0, self.device):
                logits = self._head(hidden[start : start + step])
            yield start, logits

    def prefill(self, batch: Batch, places: Tensor, slots: Slots, meter: Meter) -> Tensor:
        """Read the batch into the cache; the logits at `places`. Rows that branch or chains, never `whole`."""
        slots.prefill()
        with timed(meter, "generation", batch.used, self.device):
            hidden = self._run_body(**self._trees(batch), past_key_values=slots, use_cache=True)
            return self._head(hidden.flatten(0, 1)[places])

    def step(self, tokens: Tensor, lengths: Tensor, width: int, slots: Slots, meter: Meter) -> Tensor:
        """The logits [rows, vocabulary] after one more token in each of the first slots."""
        slots.step(lengths, width)
        masks = {kind: step_visibility(lengths, width, self._window_of(kind)) for kind in self._kinds}
        with timed(meter, "generation", len(tokens), self.device):
            hidden = self._run_body(
                input_ids=tokens[:, None],
                position_ids=lengths[:, None],
                attention_mask=self._as_taken(masks, width),
                past_key_values=slots,
                use_cache=True,
            )
            return self._head(hidden[:, 0])

    @property
    def vocabulary(self) -> int:
        return int(_text(self.config).vocab_size)

    def _run_body(self, **inputs: Any) -> Tensor:
        """Hidden states [rows, length, hidden] before the head."""
        hidden: Tensor = self._body(**inputs)[0]
        return hidden

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits [some, vocabulary] by the model's own forward, its body replaced by what it gave.

        So the scaling and capping of logits stay the model's business.
        """
        output = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden[None])
        with _standing_in(self._body, output):
            ids = torch.zeros((1, 1), dtype=torch.long, device=hidden.device)
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits[0]

    def _trees(self, batch: Batch) -> dict[str, Any]:
        masks = {kind: tree_visibility(batch.depths, batch.ends, self._window_of(kind)) for kind in self._kinds}
        return {
            "input_ids": batch.tokens,
            "position_ids": batch.depths,
            "attention_mask": self._as_taken(masks, batch.length),
        }

    def _chains(self, batch: Batch) -> dict[str, Any]:
        lengths = torch.tensor([len(row.tokens) for row in batch.rows], device=batch.tokens.device)
        places = torch.arange(batch.length, device=batch.tokens.device)
        return {"input_ids": batch.tokens, "attention_mask": (places[None] < lengths[:, None]).long()}

    def _as_taken(self, masks: Mapping[str, Tensor], length: int) -> Any:
        """One mask, or one per kind of layer where kinds differ and a row is longer than the window."""
        made = {kind: additive(mask, self.dtype) for kind, mask in masks.items()}
        beyond = self._window is not None and length > self._window
        return made if len(made) > 1 and beyond else next(iter(made.values()))

    def _window_of(self, kind: str) -> int | None:
        return self._window if kind == "sliding_attention" else None


def layer_kinds(config: Any) -> tuple[str, ...]:
    """The kinds of attention layers a model has, by transformers' names, in the order they come."""
    text = _text(config)
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return tuple(dict.fromkeys(kinds))
    return ("sliding_attention",) if getattr(text, "sliding_window", None) else ("full_attention",)


@contextmanager
def timed(meter: Meter, stage: Stage, tokens: int, device: torch.device) -> Iterator[None]:
    """`Meter.model`, waiting for the device: its work goes on after a call has returned."""
    with meter.model(stage, tokens):
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)


@contextmanager
def _standing_in(body: nn.Module, output: Any) -> Iterator[None]:
    """Inside, `body` answers every call with `output`."""
    own = body.__dict__.get("forward")
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own


def _text(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _find_way(forward: Forward) -> tuple[Way, bool]:
    """Compare a branching row, then a chain, with the model's own answer for the same tokens.

    Returns the best way that agrees, and whether that is final: of weights that are not finite nothing can be told.
    """
    size = min(forward.vocabulary, 50)
    sequences = [tuple((start + 7 * place) % size for place in range(9)) for start in (1, 3)]
    sequences = [(2 % size, 5 % size, *sequence) for sequence in sequences]
    plain = [
        forward.model(input_ids=torch.tensor([sequence], device=forward.device), use_cache=False).logits[0].float()
        for sequence in sequences
    ]
    if not all(torch.isfinite(logits).all() for logits in plain):
        return _by_config(forward), False
    ways: tuple[Way, ...] = ("trees", "chains") if _by_config(forward) == "trees" else ("chains",)
    for way, body in product(ways, _bodies(forward.model)):
        forward._way, forward._body = way, body
        rows = plant(sequences, 1e9 if way == "trees" else 0, 1000)
        (batch,) = gather(rows, 1000)
        try:
            found = [_at(forward, batch.to(forward.device), index) for index in range(2)]
        except Exception:  # whatever a model's code says to arguments it does not know
            continue
        finally:
            forward._way = None
        if all(_agree(a, b, forward.dtype) for a, b in zip(found, plain, strict=True)):
            return way, True
    return "whole", True


def _bodies(model: nn.Module) -> list[nn.Module]:
    """The modules that may be what a model's forward runs before its head."""
    found = [getattr(model, "base_model", model), getattr(model, "get_decoder", lambda: None)()]
    return [body for body in found if isinstance(body, nn.Module) and body is not model]


def _at(forward: Forward, batch: Batch, index: int) -> Tensor:
    """The logits along one sequence."""
    for number, row in enumerate(batch.rows):
        if index in row.paths:
            places = torch.tensor(row.paths[index], device=forward.device) + number * batch.length
            return torch.cat([logits for _, logits in forward.read(batch, places, Meter(), "forward")]).float()
    raise KeyError(index)


def _agree(found: Tensor, plain: Tensor, dtype: torch.dtype) -> bool:
    """Within the rounding of the dtype, measured in the spread of the logits."""
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    return bool((found - plain).abs().max() <= tolerance * max(1e-6, float(plain.std())))


def _by_config(forward: Forward) -> Way:
    """Trees need attention layers only, computed by a function that takes a mask of any shape."""
    implementation = getattr(forward.config, "_attn_implementation", None)
    return "trees" if set(forward._kinds) <= set(SEEN) and implementation in ("sdpa", "eager") else "chains"
