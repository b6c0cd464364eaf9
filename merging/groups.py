"""Which group a tensor belongs to, told from its name alone."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

MODULES = ("attention", "mlp", "norms", "embeddings", "head", "other")

# The outermost number decides: the stage, where layers are counted inside of stages (Swin, ConvNeXt, ResNet, U-Nets).
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|stages?|(?P<kind>\w+_)?(?:res)?blocks?)\.?(?P<number>\d+)\.")
_MIDDLE = re.compile(r"(?:^|\.)(?:\w+_)?mid(?:dle)?_block\.")
# A name does not say how many blocks come before those that count anew: U-Nets on their way up, single-stream blocks
# of diffusion transformers. They are numbered from here on.
_SECOND, _THIRD = 100, 200
_FIRST_NUMBER = {"single_": _SECOND, "single_transformer_": _SECOND, "up_": _THIRD, "output_": _THIRD}
# A norm is told by the name of its own module (`q_norm.weight`), not of one around it: DBRX keeps attention
# weights under `norm_attn_norm`.
_PARAMETER = re.compile(r"\.?(?:weight|bias|gamma|beta|scale|running_mean|running_var|num_batches_tracked)$")
_NORM_MODULE = re.compile(r"norm|(?:^|_)(?:ln|bn)(?:$|_|\d)", re.IGNORECASE)
# The first pattern found in the name decides.
_PATTERNS = (
    ("mlp", re.compile(r"(?:^|\.)ff\.")),  # in U-Nets also inside of `attentions`
    (
        "attention",
        re.compile(r"attn|attention|[qkv]_proj|o_proj|qkv|(?:^|\.)att_|\.att\.", re.IGNORECASE),
    ),
    (
        "mlp",
        re.compile(
            r"mlp|feed_forward|ffn|fc\d|experts|moe|gate_proj|up_proj|down_proj|DenseReluDense|pwconv"
            r"|(?:^|\.)ff_|\.ff\.|(?:^|\.)(?:intermediate|output)\.dense\.",
            re.IGNORECASE,
        ),
    ),
    (
        "embeddings",
        re.compile(
            r"embed_tokens|embeddings?|embed_in|embed_positions|pos(?:ition)?_embed|patch_embed|cls_token"
            r"|time_(?:text_)?embed|embedder|(?:^|\.)(?:wte|wpe|shared|conv_in)\.",
            re.IGNORECASE,
        ),
    ),
    (
        "head",
        re.compile(
            r"head|embed_out|score|classifier|logits|pooler|_outputs|vocab_(?:transform|projector)"
            r"|(?:^|\.)cls\.|^(?:transformer\.)?output(?:_layer)?\.|^decoder\.(?:weight|bias)$|(?:^|\.)conv_out\.",
            re.IGNORECASE,
        ),
    ),
)


@dataclass(frozen=True, order=True)
class Group:
    """Tensors that share one coefficient per expert: a module, inside a layer or outside all of them.

    Towers that number their layers on their own (encoder and decoder, vision and text) share the groups of a
    number.
    """

    layer: int | None
    module: str

    @property
    def name(self) -> str:
        """`layer.12.attention` inside a layer, `embeddings` outside."""
        return self.module if self.layer is None else f"layer.{self.layer}.{self.module}"


def group_of(tensor: str) -> Group:
    """The group of a tensor by its name, for any architecture that numbers its layers.

    A U-Net counts from 0 on its way down and from 200 on its way up, around layer 100.
    """
    layer = _layer_of(tensor)
    own_module = _PARAMETER.sub("", tensor).rsplit(".", 1)[-1]
    if _NORM_MODULE.search(own_module):
        return Group(layer, "norms")
    for module, pattern in _PATTERNS:
        if pattern.search(tensor):
            return Group(layer, module)
    return Group(layer, "other")


def _layer_of(tensor: str) -> int | None:
    if _MIDDLE.search(tensor):
        return _SECOND
    found = _LAYER.search(tensor)
    if found is None:
        return None
    return int(found["number"]) + _FIRST_NUMBER.get(found["kind"] or "", 0)


def split_at_layer(tensor: str) -> tuple[str, int, str] | None:
    """What stands in a tensor's name before, in and after the number of its layer; None outside of layers.

    `model.layers.12.mlp.up_proj.weight` is `model.layers.`, 12 and `.mlp.up_proj.weight`. Put together again with
    another number it is the same tensor of another layer.
    """
    found = _LAYER.search(tensor)
    if found is None:
        return None
    start, end = found.span("number")
    return tensor[:start], int(found["number"]), tensor[end:]


def is_merged(tensor: str, unmerged: Collection[str]) -> bool:
    """Whether a tensor takes part in a merge that leaves out the modules `unmerged`.

    A norm outside the layers goes with the module it stands in: `lm_head.layer_norm` with the head.
    """
    if not unmerged:
        return True
    group = group_of(tensor)
    if group.layer is None and group.module == "norms":
        around = _PARAMETER.sub("", tensor).rpartition(".")[0]
        return "norms" not in unmerged and group_of(f"{around}.weight").module not in unmerged
    return group.module not in unmerged


def groups_of(tensors: Iterable[str], unmerged: Collection[str] = ()) -> list[Group]:
    """Every group that merged tensors fall into, once each, layers by depth and what stands outside them last."""
    found = dict.fromkeys(group_of(tensor) for tensor in tensors if is_merged(tensor, unmerged))
    return sorted(found, key=lambda g: (g.layer is None, g.layer or 0, MODULES.index(g.module)))
