"""Write lm-eval tasks for the experts' skills: generate the answer, or choose it among four."""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from network import greedy
from skills import EXPERTS, LETTERS, LONGEST, Part, draw_distinct
from transformers import LlamaForCausalLM

COUNTS: dict[Part, int] = {"validation": 1000, "test": 500}
OPTIONS = 4


def write_tasks(folder: Path, models: Mapping[str, LlamaForCausalLM], seed: int) -> None:
    """Write `tiny_<skill>.yaml`, `tiny_<skill>_choice.yaml` and their examples for every skill with an expert.

    `sort.jsonl` has prompts and answers of a skill without one, for evaluators beside lm-eval.
    """
    folder.mkdir(parents=True)
    pairs = draw_distinct("sort", "validation", COUNTS["validation"], random.Random(f"{seed}:sort"))
    rows = [json.dumps({"prompt": prompt, "answer": answer}) + "\n" for prompt, answer in pairs]
    (folder / "sort.jsonl").write_text("".join(rows))
    for skill in EXPERTS:
        files = {}
        for part, count in COUNTS.items():
            file = folder / f"{skill}.{part}.jsonl"
            pairs = draw_distinct(skill, part, count, random.Random(f"{seed}:{skill}:{part}"))
            documents = _documents(pairs, models.values(), random.Random(f"{seed}:{skill}:{part}:options"))
            file.write_text("".join(json.dumps(document) + "\n" for document in documents))
            files[part] = str(file.resolve())
        for task in (_generation(skill, files), _choice(skill, files)):
            (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task, sort_keys=False))


def _documents(
    pairs: list[tuple[str, str]], models: Iterable[LlamaForCausalLM], rng: random.Random
) -> Iterable[dict[str, object]]:
    """One document per pair: prompt, answer, four different options, and which of them is right.

    The wrong options are what the models themselves answer wrongly: near misses made at random turned out to be too
    easy. Where the models have fewer than three wrong answers, random edits of the right one fill up.
    """
    answers = [greedy(model, [prompt for prompt, _ in pairs]) for model in models]
    for (prompt, gold), given in zip(pairs, zip(*answers, strict=True), strict=True):
        wrong = [answer for answer in dict.fromkeys(given) if answer != gold and plausible(answer)]
        wrong = rng.sample(wrong, k=min(len(wrong), OPTIONS - 1))
        while len(wrong) < OPTIONS - 1:
            missed = near_miss(gold, rng)
            if missed != gold and missed not in wrong:
                wrong.append(missed)
        options = rng.sample([gold, *wrong], k=OPTIONS)
        yield {"prompt": prompt, "answer": gold, "options": options, "label": options.index(gold)}


def plausible(answer: str) -> bool:
    """Whether it could be an answer at all: some letters of the alphabet, no more than the longest input has."""
    return 0 < len(answer) <= LONGEST and set(answer) <= set(LETTERS)


def near_miss(answer: str, rng: random.Random) -> str:
    """The answer with two letters exchanged, or with one letter replaced; now and then that changes nothing."""
    letters = list(answer)
    i, j = rng.randrange(len(letters)), rng.randrange(len(letters))
    if rng.random() < 0.5:
        letters[i], letters[j] = letters[j], letters[i]
    else:
        letters[i] = rng.choice(LETTERS)
    return "".join(letters)


def _common(task: str, files: Mapping[Part, str]) -> dict[str, object]:
    """What both forms share. The paths are absolute: lm-eval reads relative ones from the working directory."""
    return {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": dict(files)},
        "validation_split": "validation",
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "{{prompt}}",
        "target_delimiter": "",
    }


def _generation(skill: str, files: Mapping[Part, str]) -> dict[str, object]:
    return _common(f"tiny_{skill}", files) | {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["<eos>", "\n"], "do_sample": False, "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def _choice(skill: str, files: Mapping[Part, str]) -> dict[str, object]:
    return _common(f"tiny_{skill}_choice", files) | {
        "output_type": "multiple_choice",
        "doc_to_choice": "options",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
