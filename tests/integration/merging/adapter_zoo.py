"""Adapters that peft itself makes on tiny models, and what peft itself makes of them."""

import copy
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from tiny_llama import VOCAB, random_llama, save
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

ATTENTION = ["q_proj", "v_proj"]
ALL_LINEAR = [*ATTENTION, "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def llama(seed: int = 0, tied: bool = False) -> Any:
    """The tiny Llama in float32, with values that bfloat16 holds."""
    return random_llama(seed, tied).float()


def gpt2() -> Any:
    """A tiny GPT-2: weights are [in, out], some of them square, and there are biases."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    return GPT2LMHeadModel(config).to(torch.bfloat16).float()


class Convolutions(nn.Module):
    """Two convolutions and a linear layer, of no library."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Conv2d(3, 8, 3)
        self.point = nn.Conv2d(8, 8, 1)
        self.line = nn.Conv1d(4, 6, 3)
        self.last = nn.Linear(8, 4)


def save_base(model: Any, folder: Path) -> Path:
    """The base in float32, as transformers saves it, or its bare weights."""
    if hasattr(model, "save_pretrained"):
        return save(model, folder)
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "weights.safetensors")
    return folder


def adapter(model: Any, config: Any, folder: Path, seed: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    """An adapter on a copy of the model with random values in all that was trained, saved by peft."""
    tuned = peft.get_peft_model(copy.deepcopy(model), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * 0.1
                parameter.copy_(parameter + noise if "magnitude" in name or "ia3" in name else noise)
    tuned.save_pretrained(str(folder))
    file = folder / "adapter_model.safetensors"
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    return folder


def merged_by_peft(model: Any, folder: Path) -> dict[str, Tensor]:
    """The weights of the model with the adapter merged into it, by peft."""
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), str(folder))
    merged: Any = loaded.merge_and_unload()
    return dict(merged.state_dict())
