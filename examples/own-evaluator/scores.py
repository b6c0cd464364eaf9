"""What `job.yaml` names: how a model is built from its folder, and how it is scored. Put your own in its place."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SIZE = 16  # pixels, both ways


class Denoiser(nn.Module):
    """A U-Net so small that it trains in seconds. It is given noisy pictures and returns the noise in them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(1, channels, 3, padding=1)
        self.down_blocks = nn.ModuleList([Block(channels, channels), Block(channels, 2 * channels)])
        self.mid_block = Block(2 * channels, 2 * channels)
        self.up_blocks = nn.ModuleList([Block(4 * channels, channels), Block(2 * channels, channels)])
        self.conv_out = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, noisy: Tensor) -> Tensor:
        hidden, skipped = self.conv_in(noisy), []
        for block in self.down_blocks:
            hidden = block(hidden)
            skipped.append(hidden)
            hidden = nn.functional.avg_pool2d(hidden, 2)
        hidden = self.mid_block(hidden)
        for block in self.up_blocks:
            hidden = nn.functional.interpolate(hidden, scale_factor=2)
            hidden = block(torch.cat([hidden, skipped.pop()], dim=1))
        noise: Tensor = self.conv_out(hidden)
        return noise


class Block(nn.Module):
    """A norm and a convolution."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, inside)
        self.conv = nn.Conv2d(inside, outside, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.silu(self.conv(self.norm(hidden)))


def load(folder: str) -> Denoiser:
    """`models.load`: the model in a folder. A worker calls it once and then fills every merge into that model."""
    config = json.loads((Path(folder) / "config.json").read_text())
    model = Denoiser(config["channels"])
    model.load_state_dict(load_file(Path(folder) / "diffusion_pytorch_model.safetensors"))
    return model


def psnr(model: nn.Module, documents: list[dict[str, Any]], device: torch.device, noise: float) -> Tensor:
    """`function`: how close each picture comes to its original once it is denoised, in decibels.

    A document says what to draw. Its noise has a seed of its own, so a picture has the same score in every trial,
    whatever pictures it is scored with.
    """
    clean = torch.stack([draw(document["kind"], document["seed"]) for document in documents]).to(device)
    added = torch.stack([draw_noise(document["seed"]) for document in documents]).to(device)
    noisy = clean + noise * added
    error = (noisy - model(noisy) - clean).square().mean(dim=(1, 2, 3))
    return -10 * error.log10()


def draw(kind: str, seed: int) -> Tensor:
    """A picture [1, SIZE, SIZE] of zeros and ones: a `disc` or `stripes`, somewhere."""
    first, second, third = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    if kind == "disc":
        radius, middle = 2 + 4 * first, (4 + 8 * second, 4 + 8 * third)
        inside = (row - middle[0]) ** 2 + (column - middle[1]) ** 2 < radius**2
    else:
        angle = math.pi * first
        along = row * math.cos(angle) + column * math.sin(angle)
        inside = (along / (2 + 2 * second) + 2 * third) % 2 < 1
    return inside.float()[None]


def draw_noise(seed: int) -> Tensor:
    """The noise that belongs to a picture."""
    return torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed + 1))
