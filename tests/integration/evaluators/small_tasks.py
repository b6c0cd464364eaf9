"""A small random model, a character tokenizer and small task files, all made on the spot."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.harness import HarnessEvaluator

Make = Callable[..., HarnessEvaluator]

ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .:?=#<>|\n"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}|{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# One gold letter in three, so that a model that answers some letter is sometimes right.
LETTERS = "abc"


def character_tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *ALPHABET]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


def small_llama(seed: int) -> LlamaForCausalLM:
    """Two layers, hidden 32. Weights are drawn wide, so that answers differ from prompt to prompt."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(ALPHABET) + 4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def words(rng: random.Random, length: int) -> str:
    return "".join(rng.choice("abcdefgh") for _ in range(length))


def write_task(folder: Path, name: str, rows: dict[str, list[dict[str, Any]]], **config: Any) -> None:
    """One task: `rows` by data split, as jsonl beside the YAML file."""
    files = {}
    for split, documents in rows.items():
        files[split] = str(folder / f"{name}.{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in documents))
    roles = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
    task: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        **{roles[split]: split for split in rows},
        **config,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({k: v for k, v in task.items() if v is not None}))


def letter_rows(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [{"word": words(rng, 4 + index % 4), "letter": rng.choice(LETTERS)} for index in range(count)]


def choice_rows(seed: int, count: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        options = [words(rng, rng.randint(1, 6)) for _ in range(4)]
        rows.append({"question": words(rng, 5), "options": options, "answer": rng.randrange(4)})
    return rows


MEAN = {"aggregation": "mean", "higher_is_better": True}
CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_choice": "options",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
}
LETTER: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "{{word}} =",
    "doc_to_target": "{{letter}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 24, "do_sample": False},
    "metric_list": [{"metric": "exact_match", **MEAN}],
    "filter_list": [
        {
            "name": "first-letter",
            "filter": [{"function": "regex", "regex_pattern": "([a-c])"}, {"function": "take_first"}],
        },
        {"name": "strict", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
    ],
}
