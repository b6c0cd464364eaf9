"""Which group a tensor belongs to, told from its name alone."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MODULES = ("attention", "mlp", "norms", "embeddings", "head", "other")

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|(?:res)?blocks?)\.(\d+)\.")
# A norm is told by the name of its own module (`q_norm.weight`), not of one around it: DBRX keeps attention
# weights under `norm_attn_norm`.
_PARAMETER = re.compile(r"\.?(?:weight|bias|gamma|beta|scale)$")
_NORM_MODULE = re.compile(r"norm|^ln(?:$|_|\d)|_ln(?:$|_|\d)", re.IGNORECASE)
# The first pattern found in the name decides.
_PATTERNS = (
    (
        "attention",
        re.compile(r"attn|attention|[qkv]_proj|o_proj|qkv|(?:^|\.)att_|\.att\.", re.IGNORECASE),
    ),
    (
        "mlp",
        re.compile(
            r"mlp|feed_forward|ffn|fc\d|experts|moe|gate_proj|up_proj|down_proj|DenseReluDense"
            r"|(?:^|\.)ff_|\.ff\.|(?:^|\.)(?:intermediate|output)\.dense\.",
            re.IGNORECASE,
        ),
    ),
    (
        "embeddings",
        re.compile(
            r"embed_tokens|embeddings?|embed_in|embed_positions|pos(?:ition)?_embed|patch_embed|cls_token"
            r"|(?:^|\.)(?:wte|wpe|shared)\.",
            re.IGNORECASE,
        ),
    ),
    (
        "head",
        re.compile(
            r"head|embed_out|score|classifier|logits|pooler|_outputs|vocab_(?:transform|projector)"
            r"|(?:^|\.)cls\.|^(?:transformer\.)?output(?:_layer)?\.|^decoder\.(?:weight|bias)$",
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
    """The group of a tensor by its name, for any architecture that numbers its layers."""
    found = _LAYER.search(tensor)
    layer = int(found.group(1)) if found else None
    own_module = _PARAMETER.sub("", tensor).rsplit(".", 1)[-1]
    if _NORM_MODULE.search(own_module):
        return Group(layer, "norms")
    for module, pattern in _PATTERNS:
        if pattern.search(tensor):
            return Group(layer, module)
    return Group(layer, "other")


def groups_of(tensors: Iterable[str]) -> list[Group]:
    """Every group the tensors fall into, once each, layers by depth and what stands outside them last."""
    found = dict.fromkeys(group_of(tensor) for tensor in tensors)
    return sorted(found, key=lambda g: (g.layer is None, g.layer or 0, MODULES.index(g.module)))
