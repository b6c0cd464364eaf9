"""Say what is worth knowing of models that can be merged, of adapters and where configs compute differently."""

from collections.abc import Mapping
from typing import Any

from merging.adapters import adapter_notes
from merging.checkpoint import Checkpoint
from merging.sources import Sources

# what a model is called, who wrote the file, and what only training or generation reads
_NO_SAY = frozenset(
    [
        "_name_or_path",
        "name_or_path",
        "architectures",
        "auto_map",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "model_type",
        "use_cache",
        "initializer_range",
        "initializer_factor",
        "initializer_cutoff_factor",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "cls_token_id",
        "mask_token_id",
        "unk_token_id",
        "decoder_start_token_id",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "vocab_size",
        "pretraining_tp",
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "gradient_checkpointing",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "hidden_dropout",
        "hidden_dropout_prob",
        "embd_pdrop",
        "attn_pdrop",
        "resid_pdrop",
        "dropout",
        "classifier_dropout",
        "router_aux_loss_coef",
        "output_router_logits",
        "quantization_config",
        "unsloth_version",
        "unsloth_fixed",
    ]
)
_FEW = 6


def source_notes(sources: Sources) -> list[str]:
    """One sentence for each thing that does not stand in the way of the merge."""
    return [*adapter_notes(sources.experts), *config_notes(sources.reference, sources.experts)]


def config_notes(base: Checkpoint, experts: Mapping[str, Checkpoint]) -> list[str]:
    """One sentence for each expert whose config has other settings than the base's, of those both have.

    Pass the first expert as `base` where a merge has none. The merge is run with the base's settings.
    """
    notes = []
    for name, expert in experts.items():
        differ = _differences(base.config, expert.config)
        if differ:
            rest = f" and {len(differ) - _FEW} more" if len(differ) > _FEW else ""
            notes.append(
                f"`{name}` was trained with other settings than the base: {', '.join(differ[:_FEW])}{rest}. The merge "
                "runs with the base's, which may cost what this expert knows."
            )
    return notes


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], inside: str = "") -> list[str]:
    found = []
    for key in ours:
        if key in _NO_SAY or key not in theirs or ours[key] == theirs[key]:
            continue
        if isinstance(ours[key], dict) and isinstance(theirs[key], dict):
            found += _differences(ours[key], theirs[key], f"{inside}{key}.")
        else:
            found.append(f"`{inside}{key}` {_short(theirs[key])} (base: {_short(ours[key])})")
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
