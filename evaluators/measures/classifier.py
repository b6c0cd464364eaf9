"""The probability that a text classifier gives a label."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.hub import cached_file

from evaluators.lm.window import window_of
from evaluators.measures.toxicity import Classifier
from evaluators.protocol import EvaluatorError

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class _Loaded(NamedTuple):
    model: Any
    tokenizer: Any
    room: int


def check_classifier(classifier: Classifier) -> None:
    """Raise `EvaluatorError` where the classifier cannot be loaded or lacks the label; its weights are not read."""
    where = {"revision": classifier.revision}
    try:
        config = AutoConfig.from_pretrained(classifier.path, trust_remote_code=False, **where)
        AutoTokenizer.from_pretrained(classifier.path, trust_remote_code=False, **where)
    except (OSError, ValueError) as error:
        raise EvaluatorError(
            f"classifier `{classifier.path}`: must be a folder, or a Hub id that can be reached or is in the cache, "
            f"with the config and tokenizer of a transformers classifier, but: {error}"
        ) from error
    if not any(_has(classifier, name) for name in _WEIGHTS):
        raise EvaluatorError(
            f"classifier `{classifier.path}`: must have safetensors weights ({' or '.join(_WEIGHTS)}), but has none. "
            "Save it with `save_pretrained`, or use another."
        )
    _index_of(classifier, config)


def _has(classifier: Classifier, file: str) -> bool:
    try:
        return cached_file(classifier.path, file, revision=classifier.revision) is not None
    except OSError:
        return False


def _index_of(classifier: Classifier, config: Any) -> int:
    labels: dict[int, str] = config.id2label
    for index, label in labels.items():
        if label == classifier.label:
            return index
    raise EvaluatorError(
        f"classifier `{classifier.path}`: `label` must be one of its labels, {', '.join(labels.values())}, but is "
        f"`{classifier.label}`."
    )


@torch.no_grad()
def probabilities(classifier: Classifier, texts: Sequence[str], device: torch.device) -> list[float]:
    """The label's probability for each text; texts beyond the classifier's window lose their end, empty ones get 0."""
    loaded = _load(classifier.path, classifier.revision, device)
    index = _index_of(classifier, loaded.model.config)
    together = classifier.batch_size if loaded.tokenizer.pad_token_id is not None else 1
    order = sorted((place for place, text in enumerate(texts) if text.strip()), key=lambda place: -len(texts[place]))
    found = [0.0] * len(texts)
    for start in range(0, len(order), together):
        places = order[start : start + together]
        encoded = loaded.tokenizer(
            [texts[place] for place in places],
            truncation=True,
            max_length=loaded.room,
            padding=together > 1,
            padding_side="right",  # absolute positions are counted from the left
            return_tensors="pt",
        )
        chances = _chances(loaded.model(**encoded.to(device)).logits.float(), loaded.model.config)
        for place, chance in zip(places, chances[:, index].tolist(), strict=True):
            found[place] = chance
    return found


def _chances(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Probabilities [texts, labels]: of labels that do not exclude each other, or of one of them."""
    if logits.shape[-1] == 1 or config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(dim=-1)


@functools.cache
def _load(path: str, revision: str | None, device: torch.device) -> _Loaded:
    """The classifier, once per process; in float32, whatever the models that are merged compute in."""
    model, about = AutoModelForSequenceClassification.from_pretrained(
        path,
        revision=revision,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = sorted(about["missing_keys"])
    if missing:  # transformers would go on with random weights
        raise EvaluatorError(
            f"classifier `{path}`: its weights must be complete, but {len(missing)} tensors are missing, first "
            f"{missing[0]}. Is it a classifier, and not the model it was made from?"
        )
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    return _Loaded(model.to(device).eval(), tokenizer, _room(model, tokenizer))


def _room(model: nn.Module, tokenizer: Any) -> int:
    """Tokens that the classifier takes; RoBERTa and its kin begin to count positions after their padding's."""
    rooms = [window_of(model, tokenizer), int(min(tokenizer.model_max_length, 1e6))]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            rooms.append(module.num_embeddings - module.padding_idx - 1)
    return min(rooms)
