"""What an adapter_config.json says about weights: kind, ranks, scales."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from merging.errors import CheckpointError
from merging.numbers import Number, Whole
from merging.weight_files import read_json
from merging.yaml_file import in_words, shown

Value = TypeVar("Value")
Other = TypeVar("Other")

CONFIG_FILE = "adapter_config.json"
KINDS = ("LORA", "IA3")

# Adapters started from the base's own singular vectors or a quantized base: what they were trained on is not the base.
_MOVED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Settings that change what the factors mean; nothing about the tensors' names or shapes would tell.
_UNKNOWN_MEANING = {
    "layer_replication": "layers are repeated, which the base is not",
    "target_parameters": "factors of stacked experts are not read",
    "alora_invocation_tokens": "it acts only behind its invocation tokens, and weights act everywhere",
    "use_qalora": "its factors act on pooled inputs",
    "use_bdlora": "its factors are block-diagonal",
    "arrow_config": "it routes among other adapters",
    "kasa_config": "the base under it lacks its smallest singular values, and a diagonal stands between the factors",
    "monteclora_config": "its factors are drawn at random",
}
# Starts that leave the base as it is; nothing is left of them once an adapter is trained.
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")
# Settings of peft that say how an adapter was trained, or what its file says as well.
_WITHOUT_SAY = (
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "feedforward_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "bias",
    "lora_bias",
    "lora_dropout",
    "ensure_weight_tying",
    "init_lora_weights",
    "init_ia3_weights",
    "eva_config",
    "loftq_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "qalora_group_size",
    "megatron_config",
    "megatron_core",
    "runtime_config",
)


class LoraSettings(BaseModel):
    """The settings of a LoRA adapter that its weights depend on; a module's own rank and scale are in the patterns."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: Literal["LORA"] = "LORA"
    r: int = Field(gt=0)
    lora_alpha: Number
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, Whole] = Field(default_factory=dict)
    alpha_pattern: dict[str, Number] = Field(default_factory=dict)
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None

    def rank(self, module: str) -> int:
        """The rank of a module's factors."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def scaling(self, module: str) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) (rank-stabilised LoRA, 2312.03732 eq. 3)."""
        rank = self.rank(module)
        return _by_pattern(self.alpha_pattern, module, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def tokens(self, module: str) -> list[int] | None:
        """The rows of an embedding that were trained on their own, None where there are none."""
        if isinstance(self.trainable_token_indices, dict):
            return _by_pattern(self.trainable_token_indices, module, None)
        return self.trainable_token_indices


class Ia3Settings(BaseModel):
    """The settings of an IA3 adapter that its weights depend on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    peft_type: Literal["IA3"] = "IA3"
    fan_in_fan_out: bool = False


Settings = LoraSettings | Ia3Settings
KNOWN = frozenset([*LoraSettings.model_fields, *Ia3Settings.model_fields, *_UNKNOWN_MEANING, *_WITHOUT_SAY])
"""Every setting whose say over the weights is known."""


def read_settings(folder: Path) -> tuple[Settings, dict[str, Any]]:
    """The settings that matter, and the whole config as it stands in the file.

    Raises `CheckpointError` for a kind of adapter that is not read, or one whose factors mean something else.
    """
    file = folder / CONFIG_FILE
    config = read_json(file)
    kind = config.get("peft_type")
    if kind not in KINDS:
        raise CheckpointError(
            f"{file}: `peft_type` must be one of {', '.join(KINDS)}, but is {kind!r}; merge it into its base first "
            "(peft: `model.merge_and_unload().save_pretrained(...)`)."
        )
    given = {key: value for key, value in config.items() if value is not None}
    try:
        settings: Settings = (LoraSettings if kind == "LORA" else Ia3Settings).model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        said = f"`{where}` is missing"
        if problem["type"] != "missing":
            said = f"`{where}` {in_words(problem)}, but is {shown(problem['input'])}"
        raise CheckpointError(f"{file}: {said}; save the adapter again with peft.") from error
    if kind == "LORA":
        _check_meaning(file, config)
        _check_numbers(file, config)
    _check_known(file, config)
    _check_lists(file, config)
    return settings, config


def unknown_numbers(config: Mapping[str, Any]) -> dict[str, float]:
    """Settings that are not known here and only measure something: by themselves they turn nothing on."""
    return {key: value for key, value in config.items() if key not in KNOWN and value and _is_number(value)}


def _check_known(file: Path, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key not in KNOWN and value and not _is_number(value):
            raise CheckpointError(
                f"{file}: has `{key}`, which is not known here, so that its factors may mean something else. Merge it "
                "into its base first (peft: `model.merge_and_unload().save_pretrained(...)`), or take the setting out "
                "if weights do not depend on it."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_lists(file: Path, config: Mapping[str, Any]) -> None:
    for key in ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save"):
        value = config.get(key) or []
        if not isinstance(value, str | list) or any(not isinstance(one, str) for one in value):
            raise CheckpointError(
                f"{file}: `{key}` must be a name or a list of names, but is {shown(value)}; correct it."
            )


def _check_meaning(file: Path, config: dict[str, Any]) -> None:
    start = config.get("init_lora_weights")
    if isinstance(start, str) and not start.lower().startswith((*_MOVED_BASE, *_PLAIN_STARTS)):
        raise CheckpointError(
            f"{file}: was started by `{start}`, which is not known here and may have changed the base it was trained "
            "on; merge it into that base first (peft: `model.merge_and_unload().save_pretrained(...)`)."
        )
    if isinstance(start, str) and start.lower().startswith(_MOVED_BASE):
        raise CheckpointError(
            f"{file}: was started by `{start}`, which changes the base it is trained on, so that it does not fit the "
            "base itself; save it as a plain LoRA (peft: `save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)`)."
        )
    for key, why in _UNKNOWN_MEANING.items():
        if config.get(key):
            raise CheckpointError(
                f"{file}: has `{key}`: {why}. Merge it into its base first, where peft can "
                "(`model.merge_and_unload().save_pretrained(...)`)."
            )


def _check_numbers(file: Path, config: dict[str, Any]) -> None:
    """Patterns are regular expressions, and scales finite."""
    for key in ("rank_pattern", "alpha_pattern", "trainable_token_indices"):
        patterns = config.get(key)
        for pattern in patterns if isinstance(patterns, dict) else ():
            try:
                re.compile(_ending(pattern))
            except re.error as error:
                raise CheckpointError(
                    f"{file}: each name in `{key}` must be a regular expression, but {pattern!r} is none ({error})."
                ) from error
    alphas = config.get("alpha_pattern") or {}
    for key, alpha in {"lora_alpha": config.get("lora_alpha"), **alphas}.items():
        if alpha is not None and not math.isfinite(float(alpha)):
            raise CheckpointError(f"{file}: the alpha `{key}` must be finite, but is {alpha}; correct it.")


def _ending(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _by_pattern(patterns: Mapping[str, Value], module: str, otherwise: Other) -> Value | Other:
    """The value of the first pattern that a module's name, or an end of it behind a dot, matches: peft's rule."""
    for pattern, value in patterns.items():
        if re.match(_ending(pattern), module):
            return value
    return otherwise
