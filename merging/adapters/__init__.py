"""Adapters of `peft` as experts: what a LoRA or IA3 folder makes of its base, read tensor by tensor."""

from merging.adapters.files import is_adapter, open_adapter
from merging.adapters.over import adapter_notes, laid_over, needs_a_base, open_expert

__all__ = ["adapter_notes", "is_adapter", "laid_over", "needs_a_base", "open_adapter", "open_expert"]
