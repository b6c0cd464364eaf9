"""Small random classifiers of three architectures, a tokenizer of words, and data files, all made on the spot."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from evaluators.setting import Setting, plain_setting
from evaluators.shares import Splits

WORDS = [f"w{number}" for number in range(24)]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<user>", "<assistant>", "<end>"]
VOCAB = len(SPECIAL) + len(WORDS)
WINDOW = 24
CHAT = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end>{% endfor %}"


def word_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """One token a word; for BERT with its special tokens and the numbers of the two texts."""
    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate([*SPECIAL, *WORDS])}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ["input_ids", "attention_mask"]
    if kind == "bert":
        specials = [("[CLS]", 1), ("[SEP]", 2)]
        core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", specials)
        names.append("token_type_ids")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_max_length=WINDOW, model_input_names=names
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def classifier(kind: str, labels: int, seed: int = 0, **config: Any) -> Any:
    """Drawn wider than usual, so that answers differ from text to text."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB, "num_labels": labels, "initializer_range": 0.2, "pad_token_id": 0, **config}
    body = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "gpt2":
        return GPT2ForSequenceClassification(
            GPT2Config(**{"n_positions": WINDOW, "n_embd": 16, "n_layer": 2, "n_head": 2, **sizes})
        ).eval()
    made = {"bert": BertForSequenceClassification, "llama": LlamaForSequenceClassification}[kind]
    about = {"bert": BertConfig, "llama": LlamaConfig}[kind]
    return made(about(**{**body, "max_position_embeddings": WINDOW, **sizes})).eval()  # type: ignore[arg-type]


def words(rng: random.Random, most: int = 14) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def written(folder: Path, rows: list[dict[str, Any]], name: str = "data.jsonl") -> str:
    """The path of a data file with these documents."""
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def setting_for(kind: str, folder: Path | None = None, experts: tuple[str, ...] = ()) -> Setting:
    """A job's setting, whose experts are folders of their names."""
    return plain_setting(Splits(), word_tokenizer(kind), experts=experts, folder_of=lambda name: f"{folder}/{name}")
