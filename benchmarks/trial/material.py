"""Make what the benchmark runs on: models with random weights, a tokenizer of words, lm-eval tasks."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Kind = Literal["choice", "short", "long"]
KINDS: tuple[Kind, ...] = ("choice", "short", "long")
_MEAN = {"aggregation": "mean", "higher_is_better": True}
LONGEST = {"short": 16, "long": 256}


@dataclass(frozen=True)
class Shape:
    """A Llama by its numbers."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    tied: bool

    def model(self, seed: int) -> LlamaForCausalLM:
        """Random weights; wide ones, so that greedy answers differ from prompt to prompt."""
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.mlp,
            max_position_embeddings=2048,
            tie_word_embeddings=self.tied,
            initializer_range=1.5 / self.hidden**0.5,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        return LlamaForCausalLM(config).eval()


SHAPES = {
    "tiny": Shape(96, 4, 4, 4, 256, 1024, tied=False),
    "135m": Shape(576, 30, 9, 3, 1536, 49152, tied=True),
    "1b": Shape(2048, 22, 32, 4, 5632, 32000, tied=False),
    "7b": Shape(4096, 32, 32, 32, 11008, 32000, tied=False),
}


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a word: `w17` is token 17."""
    words = {f"w{index}": index for index in range(4, vocabulary)}
    core = Tokenizer(models.WordLevel({"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, **words}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names: Any = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, padding_side="left", **names)


def write_models(folder: Path, shape: Shape, dtype: torch.dtype, experts: int) -> list[Path]:
    """A base and its experts, each the base with some noise added."""
    base = shape.model(0)
    written = []
    for number in range(experts + 1):
        model = shape.model(0)
        if number:
            generator = torch.Generator().manual_seed(number)
            with torch.no_grad():
                for parameter, own in zip(model.parameters(), base.parameters(), strict=True):
                    parameter.copy_(own + 0.02 * own.std() * torch.randn(own.shape, generator=generator))
        path = folder / ("base" if number == 0 else f"expert{number}")
        model.to(dtype).save_pretrained(path)
        word_tokenizer(shape.vocabulary).save_pretrained(path)
        written.append(path)
    return written


def write_task(folder: Path, kind: Kind, vocabulary: int, documents: int) -> None:
    """Questions of 30 to 110 words: with four answers of 1 to 9 words each, or to be answered in writing."""
    rng = random.Random(f"{kind} {documents}")
    rows: list[dict[str, Any]] = []
    for _ in range(documents):
        row: dict[str, Any] = {"question": _words(rng, vocabulary, rng.randint(30, 110)), "gold": 0}
        row["choices"] = [_words(rng, vocabulary, rng.randint(1, 9)) for _ in range(4)]
        rows.append(row)
    data = folder / f"{kind}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task: dict[str, Any] = {
        "task": kind,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    if kind == "choice":
        task |= {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}
        task["metric_list"] = [{"metric": "acc", **_MEAN}]
    else:
        task |= {"output_type": "generate_until", "doc_to_target": "w9"}
        task["generation_kwargs"] = {"until": ["<eos>"], "max_gen_toks": LONGEST[kind], "do_sample": False}
        task["metric_list"] = [{"metric": "exact_match", **_MEAN}]
    (folder / f"{kind}.yaml").write_text(yaml.safe_dump(task))


def _words(rng: random.Random, vocabulary: int, count: int) -> str:
    return " ".join(f"w{rng.randrange(4, vocabulary)}" for _ in range(count))
