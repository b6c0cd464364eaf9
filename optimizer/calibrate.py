"""Collect the statistics that a recipe's method needs, from texts of the experts' own."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from merging.errors import MergeError
from optimizer.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from merging.recipe import Recipe
    from merging.statistics import Kind

MOST_TOKENS = 2048
"""Of a text; what comes after is cut off."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Text:
    """An example. The model reads all of it; squared gradients are of the loss on its `answer`, where there is one."""

    text: str
    answer: str = ""


def calibrate(recipe_file: Path, texts: Mapping[str, Path], say: Say, *, running: bool = False) -> list[Path]:
    """Write a file for each expert of a recipe into the folder that its `statistics` names, which must have none yet.

    `texts` are files for each expert: `.jsonl` with `text`, or `prompt` and `answer`, in each line, or any other with
    an example in each line. For causal language models of transformers, on the CPU, in float32. With `running`, Gram
    matrices are collected behind the merge of the layers before (RegMean++), which needs all experts in memory at once.
    Raises `InputError` where recipe, models or texts are wrong.
    """
    from merging.recipe_file import read_recipe

    try:
        recipe = read_recipe(recipe_file)
        kind = _kind(recipe)
        if running and kind != "gram":
            raise InputError(f"only regmean has a running merge, but the recipe's method is {recipe.method}.")
        folder = Path(str(recipe.structure["statistics"]))
        _refuse_existing(folder)
        examples = _examples(recipe, texts)
        with _all_or_nothing(folder) as place:
            if running:
                files = _running(recipe, examples, place, say)
            else:
                files = [_alone(recipe, expert, kind, examples[expert], place, say) for expert in recipe.experts]
        return [folder / file.name for file in files]
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error


def _kind(recipe: "Recipe") -> "Kind":
    from merging.methods import METHODS
    from merging.methods.calibrated import Calibrated

    kinds = {name: one.structure.kind for name, one in METHODS.items() if issubclass(one.structure, Calibrated)}
    if recipe.method not in kinds:
        raise InputError(f"statistics are for the methods {', '.join(kinds)}, but the recipe's is {recipe.method}.")
    return kinds[recipe.method]


def _refuse_existing(folder: Path) -> None:
    """Merges that were made with the statistics in a folder can be made again for as long as these stay."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: `statistics` must be a folder, but is a file; name another.")
    there = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if there:
        raise InputError(
            f"{folder}: must have no statistics yet, but has {len(there)} files, first {there[0].name}; remove them, "
            "or name another folder."
        )


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A place beside the folder, whose files go into it at the end; where the end is not reached they are gone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        yield Path(place)
        folder.mkdir(exist_ok=True)
        _refuse_existing(folder)
        for file in sorted(Path(place).iterdir()):
            file.replace(folder / file.name)


def files_by_expert(said: Sequence[str]) -> dict[str, Path]:
    """What `EXPERT=FILE` says, for each expert. Raises `InputError` where one is said otherwise, or twice."""
    found: dict[str, Path] = {}
    for one in said:
        expert, equals, file = one.partition("=")
        if not (expert and equals and file):
            raise InputError(f"texts are given as EXPERT=FILE, but there is {one!r}.")
        if expert in found:
            raise InputError(f"an expert has one file of texts, but `{expert}` has two: {found[expert]} and {file}.")
        found[expert] = Path(file)
    return found


def read_texts(file: Path) -> list[Text]:
    """The examples in a file, in order. Raises `InputError` where a line is none, or there are none."""
    if file.suffix == ".json":
        raise InputError(f"{file}: examples in JSON stand in a .jsonl file, an object in each line; write them so.")
    try:
        # only a line feed ends a line: JSON may have U+2028 in a text
        lines = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text ({error}).") from error
    if not lines:
        raise InputError(f"{file}: must have an example in each line, but has no line.")
    if file.suffix != ".jsonl":
        return [Text(line) for line in lines]
    return [_text(line, f"{file}, example {number}") for number, line in enumerate(lines, start=1)]


def _text(line: str, where: str) -> Text:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: must be JSON, but is not ({error}).") from error
    match found:
        case {"prompt": str(prompt), "answer": str(answer)} if answer:
            return Text(prompt, answer)
        case {"text": str(text)} if text:
            return Text(text)
    raise InputError(f"{where}: must have a `text`, or a `prompt` and an `answer`, but is {line[:80]}.")


def _examples(recipe: "Recipe", texts: Mapping[str, Path]) -> dict[str, list[Text]]:
    strangers = [expert for expert in texts if expert not in recipe.experts]
    missing = [expert for expert in recipe.experts if expert not in texts]
    if strangers:
        raise InputError(f"the recipe has no expert `{strangers[0]}`; there is: {', '.join(recipe.experts)}.")
    if missing:
        raise InputError(f"each expert must have a file of texts, but `{missing[0]}` has none; add {missing[0]}=FILE.")
    return {expert: read_texts(texts[expert]) for expert in recipe.experts}


def _alone(recipe: "Recipe", expert: str, kind: "Kind", texts: Sequence[Text], folder: Path, say: Say) -> Path:
    from merging.statistics import Grams, SquaredGradients

    model, names, tokenizer, fingerprint = _opened(recipe, expert)
    targets = {tensor: model.get_parameter(name) for tensor, name in names.items()}
    inputs_first: tuple[str, ...] = ()
    if kind == "gram":
        import torch

        with torch.no_grad(), Grams(model, targets) as grams:
            for text in texts:
                model(**_batch(tokenizer, text)[0])
        found, inputs_first = grams.tensors(), grams.inputs_first
    else:
        with SquaredGradients(model, targets) as squares:
            for text in texts:
                _answer_loss(model, tokenizer, text).backward()  # type: ignore[no-untyped-call]
                squares.take()
        found = squares.tensors()
    say(_told(expert, texts, found))
    return _written(folder, expert, kind, fingerprint, texts, found, inputs_first, [])


def _told(expert: str, texts: Sequence[Text], found: Mapping[str, "Tensor"]) -> str:
    return f"{expert}: {len(texts)} text{'s' if len(texts) != 1 else ''}, {len(found)} tensors"


def _running(recipe: "Recipe", examples: Mapping[str, Sequence[Text]], folder: Path, say: Say) -> list[Path]:
    from merging.check import check_method
    from merging.running_merge import running_grams
    from merging.statistics import Grams

    setting: Any = check_method(recipe)
    opened = {expert: _opened(recipe, expert) for expert in recipe.experts}
    models = {expert: one[0] for expert, one in opened.items()}
    names = next(iter(opened.values()))[1]
    batches = {expert: [_batch(one[2], text)[0] for text in examples[expert]] for expert, one in opened.items()}
    found = running_grams(models, batches, names, setting.alpha, setting.ridge)
    files = []
    for expert, (model, _, _, fingerprint) in opened.items():
        targets = {tensor: model.get_parameter(name) for tensor, name in names.items()}
        first = tuple(name for name in Grams(model, targets).inputs_first if name in found[expert])
        say(_told(expert, examples[expert], found[expert]))
        # what it was behind is part of what it is
        behind = [f"running:{other}:{one[3]}" for other, one in opened.items()]
        files.append(_written(folder, expert, "gram", fingerprint, examples[expert], found[expert], first, behind))
    return files


def _written(
    folder: Path,
    expert: str,
    kind: "Kind",
    fingerprint: str,
    texts: Sequence[Text],
    found: Mapping[str, "Tensor"],
    inputs_first: Sequence[str],
    more: Sequence[str],
) -> Path:
    from merging.statistics import expert_file, statistics_key, write_statistics

    ids = [hashlib.sha256(f"{one.text}\0{one.answer}".encode()).hexdigest()[:16] for one in texts]
    key = statistics_key(kind, fingerprint, [*ids, *more])
    return write_statistics(expert_file(folder, kind, expert), kind, key, found, inputs_first)


def _opened(recipe: "Recipe", expert: str) -> tuple["nn.Module", dict[str, str], Any, str]:
    """The model in float32, its parameters' names by those of the checkpoint's tensors, tokenizer, fingerprint."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from merging.adapters import open_expert
    from merging.checkpoint import fingerprint, open_checkpoint
    from merging.resident import Places
    from optimizer.loading import check_folder

    quiet: Any = transformers.utils.logging.disable_progress_bar
    quiet()
    checkpoint = open_expert(recipe.experts[expert], open_checkpoint(recipe.base) if recipe.base is not None else None)
    folder = checkpoint.model_folder
    check_folder("causal-lm", str(folder))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model.eval()
    places, own = Places(model), {id(one): name for name, one in model.named_parameters()}
    found = {tensor: places.of(tensor, checkpoint.shapes[tensor]) for tensor in checkpoint.names}
    places.check_complete()
    if checkpoint.overlay is not None:  # an adapter: the folder is its base's
        with torch.no_grad():
            for tensor, target in found.items():
                if target is not None:
                    target.copy_(checkpoint.tensor(tensor))
    names = {tensor: own[id(target)] for tensor, target in found.items() if id(target) in own}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise MergeError(f"{folder}: needs its tokenizer to read texts, but it cannot be loaded ({error}).") from error
    return model, names, tokenizer, fingerprint(checkpoint)


def _batch(tokenizer: Any, text: Text) -> tuple[dict[str, Any], int]:
    """The arguments of the model for an example, and at which token its answer begins: 1 where there is none."""
    import torch

    prompt = list(tokenizer(text.text)["input_ids"])
    ids = (prompt + list(tokenizer(text.answer, add_special_tokens=False)["input_ids"]) if text.answer else prompt)[
        :MOST_TOKENS
    ]
    if not ids:
        raise InputError(f"a text must have a token at least, but the tokenizer makes none of {text.text[:80]!r}.")
    return {"input_ids": torch.tensor([ids]), "use_cache": False}, max(1, len(prompt)) if text.answer else 1


def _answer_loss(model: "nn.Module", tokenizer: Any, text: Text) -> "Tensor":
    """- log p(answer | prompt), summed over tokens; of the whole text but its first token where there is no answer."""
    import torch

    batch, start = _batch(tokenizer, text)
    ids = batch["input_ids"][0]
    if len(ids) <= start:
        shown = (text.text + text.answer)[:80]
        raise InputError(f"squared gradients need a token to predict, but the text {shown!r} leaves none.")
    logits = model(**batch).logits[0].float()
    return torch.nn.functional.cross_entropy(logits[start - 1 : -1], ids[start:], reduction="sum")
