"""A base and two experts with heads of a size that vLLM's kernels take, and questions for them."""

import copy
import random
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluators.lm import Continuation, Prompt
from merging.recipe import Recipe, Source
from merging.sources import Sources
from tests.integration.evaluators.small_tasks import ALPHABET, character_tokenizer

EXPERTS = ("north", "south")
WINDOW = 128
WORDS = len(ALPHABET) + 4


def write_models(folder: Path) -> Path:
    """`base`, `north` and `south`, each with a character tokenizer. Random weights, drawn wide."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=WINDOW,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    base = LlamaForCausalLM(config).eval()
    for seed, name in enumerate(("base", *EXPERTS)):
        tuned = copy.deepcopy(base)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1 * (name != "base"))
        tuned.save_pretrained(folder / name)
        character_tokenizer(chat=False).save_pretrained(folder / name)
    return folder


def recipes(folder: Path, count: int) -> list[Recipe]:
    """Merges of the three with coefficients of their own for every group."""
    template = Recipe(
        method="task_arithmetic",
        base=Source(path=str(folder / "base")),
        experts={name: Source(path=str(folder / name)) for name in EXPERTS},
        coefficients={},
    )
    sources, rng = Sources(template), random.Random(5)
    groups = [group.name for group in sources.groups]
    return [
        template.model_copy(update={"coefficients": {name: (rng.random(), rng.random()) for name in groups}})
        for _ in range(count)
    ]


def likelihood_questions(seed: int = 2, count: int = 40) -> list[Continuation]:
    """Contexts that several continuations share, and two requests longer than the models' window."""
    rng = random.Random(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(4, WORDS) for _ in range(length))

    contexts = [(1, *tokens(rng.randint(0, 40))) for _ in range(count // 4)]
    asked = [Continuation(context, tokens(rng.randint(1, 8))) for context in contexts for _ in range(4)]
    return [*asked, Continuation(tokens(WINDOW), tokens(5)), Continuation(tokens(9), tokens(WINDOW + 7))]


def text_questions(seed: int = 3, count: int = 16, **options: Any) -> list[Prompt]:
    """Prompts that end for each of the three reasons."""
    rng = random.Random(seed)
    until = (("\n", "zq"), (), ("<eos>", "k"), ("7",))
    return [
        Prompt(
            tokens=(1, *(rng.randrange(4, WORDS) for _ in range(rng.randint(2, 30 if number else 2 * WINDOW)))),
            until=until[number % 4],
            max_tokens=4 + number,
            repetition_penalty=1.3 if number % 5 == 0 else 1.0,
            **options,
        )
        for number in range(count)
    ]
