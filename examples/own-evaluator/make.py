"""Make three tiny denoisers and the pictures to score them on: `python make.py`, about 15 seconds of one core.

Writes `models/base`, trained briefly on discs and stripes, `models/discs` and `models/stripes`, which went on with one
kind each, and `data/discs.jsonl` and `data/stripes.jsonl`. What is there already is left alone.
"""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from scores import Denoiser, draw
from torch import nn

HERE = Path(__file__).resolve().parent
CHANNELS = 8
KINDS = {"discs": "disc", "stripes": "stripes"}
NOISE = 0.5
PICTURES = 400  # of each kind, to score with; those to train with have other seeds


def main() -> None:
    torch.set_num_threads(1)  # one order of additions, so the same weights each time
    torch.manual_seed(0)
    if (HERE / "data").is_dir():  # made last
        print(f"{HERE}: models/ and data/ are there already")
        return
    base = train(Denoiser(CHANNELS), list(KINDS.values()), steps=150, rate=3e-3)
    save(base, "base")
    for name, kind in KINDS.items():
        save(train(copy.deepcopy(base), [kind], steps=200, rate=5e-4), name)
    (HERE / "data").mkdir()
    for name, kind in KINDS.items():
        lines = [json.dumps({"kind": kind, "seed": seed}) for seed in range(PICTURES)]
        (HERE / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{HERE}: models/ and data/ are complete")


def train(model: Denoiser, kinds: list[str], steps: int, rate: float) -> Denoiser:
    """The model itself, after some steps in which it saw the kinds in turn."""
    random = torch.Generator().manual_seed(1)
    pictures = {kind: torch.stack([draw(kind, 10 * PICTURES + seed) for seed in range(600)]) for kind in kinds}
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for step in range(steps):
        known = pictures[kinds[step % len(kinds)]]
        clean = known[torch.randint(len(known), (32,), generator=random)]
        noise = NOISE * torch.randn(clean.shape, generator=random)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(clean + noise), noise).backward()
        optimizer.step()
    return model


def save(model: Denoiser, name: str) -> None:
    """A folder as diffusers writes one."""
    folder = HERE / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({"_class_name": "Denoiser", "channels": CHANNELS}) + "\n")


if __name__ == "__main__":
    main()
