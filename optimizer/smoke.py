"""Load an export as its users will, and have it write a few words."""

from pathlib import Path
from typing import Any

from optimizer.errors import JobFailed, first_line
from optimizer.loading import CLASSES, transformers_class

PROMPT = "The"
TOKENS = 16


def smoke(folder: Path, load: str = "causal-lm") -> str:
    """What the model in `folder` writes after a word, or how it was found sound where it is no language model.

    The folder is read by transformers alone, in the dtype its config names. Raises `JobFailed` where a weight is
    missing or left over, the model or its tokenizer does not load, or its answer is not finite.
    """
    import torch
    import transformers

    if load not in CLASSES and not load.startswith("AutoModel"):
        raise JobFailed(f"--smoke loads models by transformers, but this job loads its own by `{load}`; leave it out.")
    quiet: Any = transformers.utils.logging.disable_progress_bar
    quiet()
    try:
        model, found = transformers_class(load).from_pretrained(
            folder, dtype="auto", use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # what a library says of files that it cannot read is of any kind
        raise JobFailed(f"{folder}: transformers cannot load it: {first_line(error)}.") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found.get(kind):
            raise JobFailed(f"{folder}: loading it finds {kind.replace('_', ' ')}: {sorted(found[kind])[:3]}.")
    model.eval()
    if load != "causal-lm":
        return f"{type(model).__name__} with {model.num_parameters():,} parameters loads"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise JobFailed(f"{folder}: its tokenizer does not load: {first_line(error)}.") from error
    with torch.no_grad():
        return _written(model, tokenizer, folder)


def _written(model: Any, tokenizer: Any, folder: Path) -> str:
    asked = tokenizer(PROMPT, return_tensors="pt")
    if asked["input_ids"].shape[1] == 0:  # a toy's vocabulary may not have the word
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else 0
        asked["input_ids"] = asked["input_ids"].new_full((1, 1), start)
        asked["attention_mask"] = asked["input_ids"].new_ones((1, 1))
    rows, largest = model.get_input_embeddings().num_embeddings, int(asked["input_ids"].max())
    if largest >= rows:
        raise JobFailed(
            f"{folder}: every token must have a row of the embeddings, but the tokenizer gives the id {largest}, and "
            f"there are {rows} rows; compare the models with `mergeopt tokens`."
        )
    logits = model(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"]).logits
    if not bool(logits.isfinite().all()):
        raise JobFailed(f"{folder}: the model's logits must be finite, but are not; use a wider dtype.")
    tokens = model.generate(
        input_ids=asked["input_ids"],
        attention_mask=asked["attention_mask"],
        max_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))
