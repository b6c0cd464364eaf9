"""A model with more layers than its folder has: room for the longest path of a search."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from merging.errors import MergeError
from optimizer.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from merging.recipe import Recipe
    from merging.sources import Sources
    from optimizer.spec import JobFile

DEPTH = "num_hidden_layers"


def deepened_config(job: JobFile, folder: str, layers: int) -> Any:
    """The folder's config with so many layers.

    Raises `InputError` where the job's models are not transformers' language models, where the config does not say
    how many layers there are, or where layers differ from each other by more than their weights.
    """
    from transformers import AutoConfig

    if job.models.load != "causal-lm" or job.workers.engine != "torch":
        raise InputError(
            "`space.path` changes the number of layers, which is done for `models.load: causal-lm` with "
            f"`workers.engine: torch`, but these are {job.models.load} and {job.workers.engine}; leave `path` out."
        )
    config = copy.deepcopy(AutoConfig.from_pretrained(folder, trust_remote_code=job.trust_remote_code))
    text = config.get_text_config()
    before = getattr(text, DEPTH, None)
    if not isinstance(before, int):
        raise InputError(f"{folder}: `space.path` needs a config.json with `{DEPTH}`, but it has none.")
    for name, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == before and name != "architectures":
            if any(one != value[0] for one in value):
                raise InputError(
                    f"{folder}: `space.path` moves layers to other places, but config.json says by place how they work "
                    f"(`{name}`); leave `path` out."
                )
            setattr(text, name, [value[0]] * layers)
    setattr(text, DEPTH, layers)
    return config


def deepened_model(job: JobFile, folder: str, layers: int) -> nn.Module:
    """A model with so many layers, its weights still without meaning, on the job's device and in its compute dtype."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, job.workers.dtype)
    build: Any = AutoModelForCausalLM.from_config
    model: nn.Module = build(deepened_config(job, folder, layers), dtype=dtype, trust_remote_code=job.trust_remote_code)
    return model.to(device=torch.device(job.workers.torch_device()), dtype=dtype).eval()


class Deepened:
    """A torch module that recipes with paths are filled into (see `optimizer.resident.Resident`)."""

    def __init__(self, model: nn.Module, sources: Sources, layers: int) -> None:
        from merging.kept_directions import KeptDirections
        from merging.live_path import LivePath

        self.model = model
        self._live = LivePath(model, sources, layers, KeptDirections(sources))
        self._layers = layers
        self._checked = False

    def fill(self, recipe: Recipe) -> None:
        """See `Resident.fill`. Raises `MergeError` also where a layer that is left over is not idle in this model."""
        self._live.fill(recipe)
        used = len(recipe.path) if recipe.path is not None else self._live.depth
        if used < self._layers and not self._checked:
            check_idle(self.model, self._layers, used)
            self._checked = True


def check_idle(model: nn.Module, layers: int, used: int) -> None:
    """Raise `MergeError` where a layer from number `used` on changes what goes through it."""
    import torch
    from torch import nn

    stack = next((one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == layers), None)
    if stack is None:
        raise MergeError(f"{type(model).__name__} has no list of {layers} layers that could be looked at.")
    changed: list[int] = []

    def look(number: int) -> Any:
        def hook(_: nn.Module, given: Any, kwargs: Any, result: Any) -> None:
            before = given[0] if given else kwargs["hidden_states"]
            after = result[0] if isinstance(result, tuple) else result
            if not torch.equal(before, after):
                changed.append(number)

        return hook

    hooks = [stack[number].register_forward_hook(look(number), with_kwargs=True) for number in range(used, layers)]
    try:
        with torch.no_grad():
            model(torch.zeros((1, 2), dtype=torch.long, device=next(model.parameters()).device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if changed:
        raise MergeError(
            f"a layer of {type(model).__name__} that adds nothing must change nothing, but layer {changed[0]} does; "
            "this kind of model cannot be searched with `space.path`."
        )
