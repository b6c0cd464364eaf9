"""What of vLLM's documented interface we call, answered by transformers: for machines without vLLM.

It shows that what we ask and what we make of the answers is right, not that vLLM answers so: `test_vllm_engine.py`
shows that, where vLLM is installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


class SamplingParams:
    """The arguments by name, as vLLM refuses them where they make no sense."""

    def __init__(self, **options: Any) -> None:
        if options.get("stop") and not options.get("detokenize", True):
            raise ValueError("stop strings are only supported when detokenize is True.")
        if any(not stop for stop in options.get("stop", ())):
            raise ValueError("stop cannot contain an empty string.")
        self.__dict__.update(options)


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    finish_reason: str | None
    stop_reason: int | str | None


@dataclass
class RequestOutput:
    prompt_logprobs: list[dict[int, Logprob]] | None
    outputs: list[CompletionOutput]


class LLM:
    """Greedy answers only. `calls` are the names of the calls that change something, of all instances in order."""

    calls: ClassVar[list[str]] = []

    def __init__(self, model: str, dtype: str, max_model_len: int | None = None, **_: Any) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._limit = max_model_len or self._model.config.max_position_embeddings
        self.model_config = SimpleNamespace(max_model_len=self._limit)

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> list[None]:
        self.calls.append(method)
        assert method == "reload_weights"
        (file,) = Path(kwargs["weights_path"]).glob("*.safetensors")
        self._model.load_state_dict(load_file(file))
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return True

    @torch.no_grad()
    def generate(self, prompts: list[dict[str, list[int]]], params: list[Any], use_tqdm: bool) -> list[RequestOutput]:
        assert not use_tqdm
        tokens = [prompt["prompt_token_ids"] for prompt in prompts]
        assert all(0 < len(one) < self._limit for one in tokens), "vLLM refuses a prompt that fills its window"
        return [self._one(one, how) for one, how in zip(tokens, params, strict=True)]

    def _one(self, prompt: list[int], how: Any) -> RequestOutput:
        scored = self._scored(prompt) if getattr(how, "prompt_logprobs", None) is not None else None
        written: list[int] = []
        total, ended = 0.0, None
        while ended is None:
            logits = self._logits([*prompt, *written])[-1]
            chosen = int(_penalised(logits, {*prompt, *written}, getattr(how, "repetition_penalty", 1.0)).argmax())
            total += float(torch.log_softmax(logits, dim=-1)[chosen])
            written.append(chosen)
            ended = self._ended(written, len(prompt), how)
        asked = getattr(how, "logprobs", None) is not None
        return RequestOutput(scored, [CompletionOutput(written, total if asked else None, *ended)])

    def _logits(self, tokens: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self._model(torch.tensor([tokens])).logits[0].float()
        return logits

    def _scored(self, tokens: list[int]) -> list[dict[int, Logprob]]:
        """Nothing for the first token; for each other one its own log-probability, then the largest."""
        places: list[dict[int, Logprob]] = [{}]
        for chances, token in zip(torch.log_softmax(self._logits(tokens), dim=-1), tokens[1:], strict=False):
            rank = int((chances >= chances[token]).sum())  # as vLLM counts
            known = {token: Logprob(float(chances[token]), rank)}
            known.setdefault(int(chances.argmax()), Logprob(float(chances.max()), 1))
            places.append(known)
        return places

    def _ended(self, written: list[int], read: int, how: Any) -> tuple[str, int | str | None] | None:
        if written[-1] in getattr(how, "stop_token_ids", ()):
            return "stop", written[-1]
        text = (
            self._tokenizer.decode(written, skip_special_tokens=how.skip_special_tokens) if how.max_tokens > 1 else ""
        )
        stop = next((stop for stop in getattr(how, "stop", ()) if stop in text), None)
        if stop is not None:
            return "stop", stop
        return ("length", None) if len(written) >= how.max_tokens or read + len(written) >= self._limit else None


def _penalised(logits: torch.Tensor, present: set[int], penalty: float) -> torch.Tensor:
    changed = logits.clone()
    for token in present:
        changed[token] *= penalty if logits[token] < 0 else 1 / penalty
    return changed


def module() -> ModuleType:
    """A module to stand under the name `vllm`."""
    made = ModuleType("vllm")
    made.LLM, made.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    return made
