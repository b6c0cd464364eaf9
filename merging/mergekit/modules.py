"""Which module of a merge config a tensor belongs to, told from its name."""

from collections.abc import Sequence

# mergekit's names for the parts of models, and how weights of such parts are called. The first that fits decides.
_WORDS = {
    "multi_modal_projector": ("multi_modal_projector", "merger", "connector", "embed_vision"),
    "vision_tower": ("vision_tower", "visual", "vision_model"),
    "vision_model": ("vision_model", "vision_tower", "visual"),
    "audio_tower": ("audio_tower",),
    "text_decoder": ("language_model", "text_model"),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "shared": ("shared",),
}
_REST = ("text_decoder", "shared", "decoder")


def owner(tensor: str, modules: Sequence[str]) -> str | None:
    """The module that a tensor belongs to; None where it belongs to none of them.

    A part of the tensor's name must be the module's, or one that modules of this name have. What fits no known module
    (`model.layers...` and `lm_head` beside `visual...`) belongs to the first there is of `text_decoder`, `shared` and
    `decoder`. What would belong to none belongs to `default`, mergekit's name for all of an ordinary text model.
    """
    parts = tensor.split(".")
    words = {**_WORDS, **{name: (name,) for name in modules if name not in _WORDS}}
    named = [name for name, known in words.items() if any(word in parts for word in known)]
    return next((name for name in named or _REST if name in modules), "default" if "default" in modules else None)
