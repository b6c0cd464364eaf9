"""The tiny Llama, its character tokenizer, and answers in batches."""

from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789:= \n+-.,"
VOCABULARY = {token: index for index, token in enumerate((*SPECIAL, *CHARACTERS))}
PAD, BOS, EOS = 0, 1, 2


def new_model(seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 4 layers and 378,720 parameters in float32; the seed alone decides its weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )


def new_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, `<bos>` in front, padding on the left as generation wants it."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def encode(prompt: str) -> list[int]:
    """Token ids of a prompt, the same as the tokenizer's and many times faster."""
    return [BOS, *(VOCABULARY[character] for character in prompt)]


def examples_to_tensors(pairs: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Inputs and labels `[examples, tokens]`, int64, padded on the right.

    Position `i` of the labels is the token that should follow position `i` of the inputs, -100 outside the answer and
    its `<eos>`.
    """
    inputs, labels = [], []
    for prompt, answer in pairs:
        before, after = encode(prompt), [*encode(answer)[1:], EOS]
        inputs.append(torch.tensor(before + after[:-1]))
        labels.append(torch.tensor([-100] * (len(before) - 1) + after))
    return (
        pad_sequence(inputs, batch_first=True, padding_value=PAD),
        pad_sequence(labels, batch_first=True, padding_value=-100),
    )


@torch.inference_mode()
def greedy(model: LlamaForCausalLM, prompts: Sequence[str], batch: int = 256, longest: int = 10) -> list[str]:
    """The model's greedy answer to each prompt, up to `<eos>` or `longest` tokens."""
    answers: list[str] = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    lengths = dict.fromkeys(len(prompts[index]) for index in order)
    for length in lengths:  # prompts of one length need no padding
        same = [index for index in order if len(prompts[index]) == length]
        for start in range(0, len(same), batch):
            rows = same[start : start + batch]
            tokens = _continue(model, torch.tensor([encode(prompts[index]) for index in rows]), longest)
            for index, row in zip(rows, tokens.tolist(), strict=True):
                kept = row[: row.index(EOS)] if EOS in row else row
                answers[index] = "".join((*SPECIAL, *CHARACTERS)[token] for token in kept)
    return answers


def _continue(model: LlamaForCausalLM, tokens: Tensor, longest: int) -> Tensor:
    """The `longest` tokens that greedily follow `tokens` `[rows, length]`."""
    cache, step, found = DynamicCache(config=model.config), tokens, []
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for _ in range(longest):
        step = model(step, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
        found.append(step)
        ended |= step[:, 0] == EOS
        if ended.all():
            break
    return torch.cat(found, dim=1)
