"""The tiny models are worth merging, and lm-eval can tell."""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import TINY, Tiny

EXPERTS = ("reverse", "rotate", "dedupe")
NAMES = ("base", *EXPERTS)


def example_module(name: str) -> ModuleType:
    """A module of `examples/tiny`, which is a folder of scripts and no package."""
    sys.path.insert(0, str(TINY))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TINY))


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    """The example's own scoring."""
    return example_module("measure")


@pytest.fixture(scope="module")
def part_of() -> Callable[[str], str]:
    """The rule by which training leaves prompts out."""
    rule: Callable[[str], str] = example_module("skills").part_of
    return rule


@pytest.fixture(scope="module")
def exact_match(tiny: Tiny, measure: ModuleType) -> dict[str, dict[str, float]]:
    """Exact match of every parent and of the uniform average, per skill, on 200 test examples each."""
    torch.set_num_threads(1)
    documents = measure.read(tiny.tasks, "test", 200)
    batches = measure.batches_of({skill: measure.pairs_of(several) for skill, several in documents.items()})
    merges = measure.Merges(tiny.models)
    models = {name: measure.open_model(tiny.models / name) for name in NAMES}
    models["average"] = merges.load(torch.full((measure.GROUPS, len(EXPERTS)), 1 / 3))
    return {
        name: {skill: float(values[0]) for skill, values in measure.scores(model, batches).items()}
        for name, model in models.items()
    }


def prompts(tiny: Tiny, skill: str, part: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (tiny.tasks / f"{skill}.{part}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_model_is_an_ordinary_hugging_face_folder(tiny: Tiny, name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny.models / name)
    tokenizer = AutoTokenizer.from_pretrained(tiny.models / name)
    assert model.config.tie_word_embeddings is False
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert len(tokenizer) == model.config.vocab_size
    ids = tokenizer("rev:abcde=")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == 11
    assert tokenizer.decode(ids, skip_special_tokens=True) == "rev:abcde="


def test_each_expert_is_the_best_at_its_own_skill(exact_match: dict[str, dict[str, float]]) -> None:
    for skill in EXPERTS:
        scores = {name: exact_match[name][skill] for name in (*NAMES, "average")}
        assert max(scores, key=lambda name: scores[name]) == skill


def test_the_uniform_average_beats_every_parent(exact_match: dict[str, dict[str, float]]) -> None:
    means = {name: sum(per_skill.values()) / len(per_skill) for name, per_skill in exact_match.items()}
    assert means["average"] > max(means[name] for name in NAMES) + 0.02


def test_there_is_room_above_the_uniform_average(exact_match: dict[str, dict[str, float]]) -> None:
    assert all(exact_match["average"][skill] < exact_match[skill][skill] - 0.05 for skill in EXPERTS)


@pytest.mark.parametrize("skill", EXPERTS)
def test_held_out_prompts_are_never_trained_on(tiny: Tiny, part_of: Callable[[str], str], skill: str) -> None:
    validation, test = prompts(tiny, skill, "validation"), prompts(tiny, skill, "test")
    assert (len(validation), len(test)) == (1000, 500)
    assert len({*validation, *test}) == 1500
    assert {part_of(prompt) for prompt in validation} == {"validation"}
    assert {part_of(prompt) for prompt in test} == {"test"}


@pytest.mark.parametrize("skill", EXPERTS)
def test_every_choice_has_four_options_and_exactly_one_is_right(tiny: Tiny, skill: str) -> None:
    documents = [json.loads(line) for line in (tiny.tasks / f"{skill}.test.jsonl").read_text().splitlines()]
    assert all(len(set(document["options"])) == 4 for document in documents)
    assert all(document["options"][document["label"]] == document["answer"] for document in documents)
    places: Sequence[int] = [document["label"] for document in documents]
    assert all(places.count(place) > 90 for place in range(4))


def test_lm_eval_loads_the_tasks_and_agrees_with_a_bare_forward(
    tiny: Tiny, exact_match: dict[str, dict[str, float]]
) -> None:
    names = [f"tiny_{skill}{form}" for skill in EXPERTS for form in ("", "_choice")]
    manager = TaskManager(include_path=str(tiny.tasks), include_defaults=False)
    tasks = manager.load(names)["tasks"]
    assert list(tasks) == names
    model = AutoModelForCausalLM.from_pretrained(tiny.models / "rotate").eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny.models / "rotate")
    results = evaluator.evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=50),
        manager.load(["tiny_dedupe", "tiny_rotate_choice"]),
        limit=200,
        bootstrap_iters=0,
    )["results"]
    assert results["tiny_dedupe"]["exact_match,none"] == pytest.approx(exact_match["rotate"]["dedupe"])
    assert results["tiny_rotate_choice"]["acc,none"] > 0.95
