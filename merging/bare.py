"""A folder's tensors as a module that computes nothing: for merges of models we know no class for."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from merging.checkpoint import Checkpoint


class BareTensors(nn.Module):
    """Every tensor of a checkpoint under its own name, to be filled in place like any model's parameters.

    `tensors()` gives them by the names they have in the file; what they mean is the caller's business.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        # a module's own buffers may not have dots in their names
        self._names = {name: f"tensor_{number}" for number, name in enumerate(checkpoint.names)}
        for name, attribute in self._names.items():
            self.register_buffer(attribute, torch.clone(checkpoint.tensor(name)))

    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by their names in the file, in its order. They are the live ones: the next merge changes them."""
        return {name: self.get_buffer(attribute) for name, attribute in self._names.items()}

    def state_dict(self, *_: Any, **__: Any) -> Any:
        """The live tensors by their names in the file."""
        return dict(self.tensors())
