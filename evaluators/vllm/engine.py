"""A model inside vLLM's engine, asked what `evaluators.lm.LanguageModel` is asked."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, GenerationConfig

from evaluators.lm.requests import Continuation, Generated, Likelihood, Prompt, Tokens
from evaluators.lm.stops import Stops
from evaluators.meter import Meter, Stage
from evaluators.vllm.requests import (
    BESIDE,
    SCORING,
    generated,
    likelihood,
    portions,
    sampling_options,
    scored_tokens,
    written_tokens,
)
from evaluators.vllm.spec import VllmSpec

_TOKENS_AT_ONCE = 1 << 20  # of prompts whose log-probabilities are held as Python objects, some 200 bytes each


class VllmModel(nn.Module):
    """Stands where evaluators expect a torch module: it has a model's configs, and its weights are in the engine.

    `llm` is a `vllm.LLM`, `params` the class `vllm.SamplingParams`.
    """

    def __init__(self, llm: Any, params: Callable[..., Any], config: Any, generation_config: Any) -> None:
        super().__init__()
        self.config = config
        self.generation_config = generation_config
        self._llm = llm
        self._params = params

    @property
    def device(self) -> torch.device:
        """Where lm-eval would put its inputs; ours are lists."""
        return torch.device("cpu")

    def scoring_engine(self, tokenizer: Any, room: int) -> "VllmLanguageModel":
        """The scoring engine; its window is `room`, or what vLLM's leaves of it."""
        return VllmLanguageModel(self, tokenizer, min(room, self._llm.model_config.max_model_len - BESIDE))

    def reload(self, folder: Path) -> None:
        """Take the weights in `folder`, which must hold every tensor of the checkpoint.

        Where this raises, the engine's weights are undefined.
        """
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM must forget what it cached with the last weights, but did not.")

    def ask(self, prompts: Sequence[Tokens], options: Sequence[dict[str, Any]], stage: Stage, meter: Meter) -> Any:
        """vLLM's outputs for these prompts, each with its own `SamplingParams`; its time is the model's own."""
        asked = [{"prompt_token_ids": list(tokens)} for tokens in prompts]
        params = [self._params(**one) for one in options]
        with meter.model(stage, sum(map(len, prompts))):
            return self._llm.generate(asked, params, use_tqdm=False)

    def tie_weights(self) -> None:
        """Nothing: lm-eval asks it of every model, and vLLM has done so."""

    def forward(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            "this model is inside vLLM's engine, which gives log-likelihoods and texts and no tensors; "
            "set `workers.engine: torch` in the job file."
        )


class VllmLanguageModel:
    """The methods of `evaluators.lm.LanguageModel`, answered by vLLM. vLLM makes its batches itself."""

    def __init__(self, model: VllmModel, tokenizer: Any, room: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.room = room
        self._stops: dict[tuple[str, ...], Stops] = {}

    def loglikelihoods(
        self, requests: Sequence[Continuation], meter: Meter | None = None, done: Callable[[int], None] = lambda _: None
    ) -> list[Likelihood]:
        """One answer per request, in their order; `done` hears how many requests each portion answers."""
        meter = meter or Meter()
        prompts = [scored_tokens(request, self.room) for request in requests]
        answers: list[Likelihood] = []
        with meter.stage("forward"):
            for portion in portions(prompts, _TOKENS_AT_ONCE):
                some = [prompts[number] for number in portion]
                outputs = self.model.ask(some, [SCORING] * len(some), "forward", meter)
                for number, output in zip(portion, outputs, strict=True):
                    answers.append(likelihood(requests[number], prompts[number], output.prompt_logprobs))
                done(len(some))
        return answers

    def generate(
        self, prompts: Sequence[Prompt], meter: Meter | None = None, done: Callable[[int], None] = lambda _: None
    ) -> list[Generated]:
        """One answer per prompt, in their order; `done` hears of them when all are written."""
        if not prompts:
            return []
        meter, end = meter or Meter(), self.end_tokens()
        with meter.stage("generation"):
            tokens = [written_tokens(prompt, self.room) for prompt in prompts]
            options = [sampling_options(prompt, end) for prompt in prompts]
            outputs = [one.outputs[0] for one in self.model.ask(tokens, options, "generation", meter)]
            meter.tokens["generation"] += sum(len(output.token_ids) for output in outputs)
            done(len(prompts))
            return [
                generated(output, self.tokenizer, self._stops_of(prompt.until))
                for prompt, output in zip(prompts, outputs, strict=True)
            ]

    def end_tokens(self) -> list[int]:
        """The tokens that end a text: those of the model's generation config, and the tokenizer's own."""
        found = self.model.generation_config.eos_token_id
        ends = found if isinstance(found, list) else [found]
        return [int(end) for end in dict.fromkeys([*ends, self.tokenizer.eos_token_id]) if end is not None]

    def _stops_of(self, until: tuple[str, ...]) -> Stops:
        if until not in self._stops:
            self._stops[until] = Stops(self.tokenizer, until)
        return self._stops[until]


def open_vllm(
    folder: str, spec: VllmSpec, *, gpus: float, dtype: str, trust_remote_code: bool = False, **engine: Any
) -> VllmModel:
    """The model in `folder` inside an engine of vLLM's, split over the GPUs where there are several.

    `engine` are further arguments of `vllm.LLM`.
    """
    # vLLM's engine runs in this process: its order of work is then the same each time, and it ends when the process is
    # killed, with all it has on the GPU.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import LLM, SamplingParams

    if gpus > 1:
        engine = {"tensor_parallel_size": int(gpus), "distributed_executor_backend": "mp", **engine}
    llm = LLM(
        model=folder,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        gpu_memory_utilization=spec.share(gpus),
        max_model_len=spec.max_model_len,
        generation_config="vllm",  # defaults of the model's own would change what is asked
        use_tqdm_on_load=False,
        **engine,
    )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return VllmModel(llm, SamplingParams, config, _generation_config(folder, config))


def _generation_config(folder: str, config: Any) -> GenerationConfig:
    """As transformers finds it for a model in the folder."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # there is no such file
        return GenerationConfig.from_model_config(config)
