"""Read a task's generation settings: lm-eval passes on whatever its file says."""

import hashlib
from collections.abc import Mapping
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from evaluators.lm import Prompt, Sampling
from evaluators.protocol import EvaluatorError

_KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
# Settings that change nothing at these values.
_NEUTRAL: dict[str, Any] = {"num_beams": 1, "use_cache": True, "num_return_sequences": 1, "length_penalty": 1.0}


def check_options(task: str, options: Mapping[str, Any]) -> None:
    """Refuse settings that would be passed over. Raises `EvaluatorError`."""
    for name, value in normalize_gen_kwargs(dict(options)).items():
        if name not in _KNOWN and _NEUTRAL.get(name) != value:
            raise EvaluatorError(
                f"task `{task}` sets `{name}: {value}` in its `generation_kwargs`, which is not supported. "
                f"Take it out, or use one of: {', '.join(_KNOWN)}."
            )


def is_sampled(options: Mapping[str, Any]) -> bool:
    """Whether the answers are drawn at random; by seeds of their own, so that the same weights draw the same."""
    return bool(normalize_gen_kwargs(dict(options)).get("do_sample"))


def as_prompt(
    tokens: tuple[int, ...], options: Mapping[str, Any], eos: str, most: int, own: Any, repeat: int = 0
) -> Prompt:
    """A request as the language model takes it. `own` is the model's generation config, `most` its default length.

    Its repetition penalty applies to greedy answers too, as in transformers. `repeat` counts the times the same prompt
    was asked before: sampled answers differ from each other.
    """
    known = normalize_gen_kwargs(dict(options), most)
    until = tuple(handle_stop_sequences(known.get("until"), eos=eos))
    penalty = known.get("repetition_penalty") or getattr(own, "repetition_penalty", None) or 1.0
    sampling = None
    if known.get("do_sample"):
        sampling = Sampling(
            seed=_seed(tokens, repeat),
            temperature=float(known.get("temperature") or 1.0),
            top_k=known.get("top_k", getattr(own, "top_k", None)),
            top_p=known.get("top_p", getattr(own, "top_p", None)),
            min_p=known.get("min_p", getattr(own, "min_p", None)),
        )
    return Prompt(tokens, until, int(known["max_gen_toks"]), sampling, float(penalty))


def _seed(tokens: tuple[int, ...], repeat: int) -> int:
    digest = hashlib.sha256(repr((tokens, repeat)).encode()).digest()
    return int.from_bytes(digest[:8], "big")
