"""Say who sees whom, as the additive masks transformers models take."""

import torch
from torch import Tensor

SEEN = ("full_attention", "sliding_attention")


def tree_visibility(depths: Tensor, ends: Tensor, window: int | None = None) -> Tensor:
    """Bool [rows, 1, length, length]: may the token of each line see the token of each column (see `forest`).

    `window`: a token sees only those less than so many positions before it.
    """
    places = torch.arange(depths.shape[1], device=depths.device)
    seen = (places[None, None, :] <= places[None, :, None]) & (places[None, :, None] < ends[:, None, :])
    if window is not None:
        seen &= depths[:, :, None] - depths[:, None, :] < window
    return seen[:, None]


def step_visibility(lengths: Tensor, width: int, window: int | None = None) -> Tensor:
    """Bool [rows, 1, 1, width]: what the one token at position `lengths` of each row sees of its slot."""
    places = torch.arange(width, device=lengths.device)
    seen = places[None, :] <= lengths[:, None]
    if window is not None:
        seen &= lengths[:, None] - places[None, :] < window
    return seen[:, None, None, :]


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where seen, else the dtype's lowest number: made once a batch, where every layer would convert a bool."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
