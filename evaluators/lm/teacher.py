"""What an expert would say next at every place of a prompt, kept on disk, and how far a model is from that.

The loss is KL(expert || model) over next tokens, the mean over the places of a prompt: no answers are needed (Expert
Merging, arXiv 2509.25712). It is measured on the expert's `TOP` likeliest tokens and all others as one, which is never
more than the divergence over the whole vocabulary.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluators.lm.requests import Continuation, Tokens
from evaluators.lm.token_store import store_folder

TOP = 64
_LEAST = 1e-12  # probability: what is left beside the likeliest tokens may be nothing


@dataclass(frozen=True)
class Distributions:
    """Of the token after each token of a prompt: the likeliest `tokens`, int64 [places, some], and their `logs`,
    float32, log-probabilities in nats."""

    tokens: Tensor
    logs: Tensor


def after_every_token(prompt: Tokens) -> Continuation:
    """A request that is read at every token of the prompt; what stands for the last one's target is nobody's."""
    return Continuation(prompt[:1], (*prompt[1:], 0))


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens and log-probabilities of `Distributions`, of logits [places, vocabulary]."""
    logs, tokens = torch.log_softmax(logits.float(), dim=-1).topk(min(TOP, logits.shape[-1]), dim=-1)
    return tokens, logs


def divergences(tokens: Tensor, logs: Tensor, logits: Tensor) -> Tensor:
    """KL(expert || model) at every place in nats, float64 [places]; `logits` are the model's [places, vocabulary]."""
    here = logits.float()
    own = (here.gather(-1, tokens) - torch.logsumexp(here, dim=-1, keepdim=True)).double()
    wanted = logs.double()
    among = (wanted.exp() * (wanted - own)).sum(-1)
    rest, own_rest = ((1 - each.exp().sum(-1)).clamp(min=_LEAST) for each in (wanted, own))
    return among + rest * (rest / own_rest).log()


def recalled(prompt: Tokens, key: str) -> Distributions | None:
    """What is on disk of an expert; `key` names its weights and how they are run. None where nothing is."""
    try:
        content = load_file(_file(prompt, key))
        return Distributions(content["tokens"].long(), content["logs"])
    except (OSError, SafetensorError, KeyError):
        return None


def keep(prompt: Tokens, key: str, found: Distributions) -> None:
    """Beside, then renamed. A folder that cannot be written to costs another process its time and nothing else."""
    file = _file(prompt, key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=file.parent, suffix=".partial")
        os.close(descriptor)
        try:
            save_file({"tokens": found.tokens.int(), "logs": found.logs.contiguous()}, beside)
            os.replace(beside, file)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError:
        return


def _file(prompt: Sequence[int], key: str) -> Path:
    name = hashlib.sha256(f"{TOP} {key} {' '.join(map(str, prompt))}".encode()).hexdigest()
    return store_folder().with_name("teachers") / f"{name}.safetensors"
