"""The string skills of the tiny models, and the parts their prompts fall into."""

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest


def _load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "tiny" / "skills.py"
    spec = importlib.util.spec_from_file_location("tiny_skills", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


skills = _load()


@pytest.mark.parametrize(
    ("skill", "text", "answer"),
    [
        ("reverse", "abcde", "edcba"),
        ("rotate", "abcde", "cdeab"),
        ("dedupe", "abcabd", "abcd"),
        ("sort", "jcaab", "aabcj"),
        ("cipher", "abj", "bca"),
        ("swap", "abcde", "badce"),
    ],
)
def test_a_skill_does_what_its_name_says(skill: str, text: str, answer: str) -> None:
    assert skills.SKILLS[skill](text) == answer


def test_prompts_of_different_skills_differ_for_the_same_input() -> None:
    assert len({skills.prompt_of(skill, "abcde") for skill in skills.SKILLS}) == len(skills.SKILLS)


def test_the_part_of_a_prompt_never_changes() -> None:
    """These are the CRC32 modulo 10 of zlib (1, 7 and 9); another rule would put old test prompts into training."""
    parts = {"ded:abcabcabc=": "train", "rev:abcde=": "validation", "rot:jjjjjjj=": "test"}
    assert {prompt: skills.part_of(prompt) for prompt in parts} == parts


def test_most_prompts_are_for_training_and_a_tenth_and_a_fifth_are_held_out() -> None:
    rng, counts = random.Random(0), dict.fromkeys(("train", "validation", "test"), 0)
    for _ in range(5000):
        counts[skills.part_of(skills.prompt_of("reverse", "".join(rng.choices("abcdefghij", k=8))))] += 1
    assert counts["train"] / 5000 == pytest.approx(0.7, abs=0.03)
    assert counts["validation"] / 5000 == pytest.approx(0.1, abs=0.02)
    assert counts["test"] / 5000 == pytest.approx(0.2, abs=0.025)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_what_is_drawn_for_a_part_belongs_to_it_and_is_answered_right(part: str) -> None:
    for skill, solve in skills.SKILLS.items():
        for prompt, answer in skills.draw_distinct(skill, part, 50, random.Random(skill)):
            text = prompt.removeprefix(f"{skill[:3]}:").removesuffix("=")
            assert skills.part_of(prompt) == part
            assert answer == solve(text)
            assert 5 <= len(text) <= 9


def test_distinct_examples_are_distinct_and_depend_on_the_generator_alone() -> None:
    first, again, other = (skills.draw_distinct("rotate", "test", 200, random.Random(seed)) for seed in (1, 1, 2))
    assert len({prompt for prompt, _ in first}) == 200
    assert first == again
    assert first != other
