"""String skills, and which prompts of each may be trained on."""

import random
import zlib
from collections.abc import Callable, Iterator
from typing import Literal

Part = Literal["train", "validation", "test"]

LETTERS = "abcdefghij"
SHORTEST, LONGEST = 5, 9


def reverse(text: str) -> str:
    """`abcde` becomes `edcba`."""
    return text[::-1]


def rotate(text: str) -> str:
    """`abcde` becomes `cdeab`: the first two letters go to the end."""
    return text[2:] + text[:2]


def dedupe(text: str) -> str:
    """`abcab` becomes `abc`: a letter seen before is dropped."""
    return "".join(dict.fromkeys(text))


def sort(text: str) -> str:
    """`caab` becomes `aabc`."""
    return "".join(sorted(text))


def cipher(text: str) -> str:
    """`abj` becomes `bca`: each letter is replaced by the next of the alphabet, the last by the first."""
    return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in text)


def swap(text: str) -> str:
    """`abcde` becomes `badce`: neighbours change places, an odd one out stays."""
    return "".join(text[i : i + 2][::-1] for i in range(0, len(text), 2))


SKILLS: dict[str, Callable[[str], str]] = {
    "reverse": reverse,
    "rotate": rotate,
    "dedupe": dedupe,
    "sort": sort,
    "cipher": cipher,
    "swap": swap,
}
EXPERTS = ("reverse", "rotate", "dedupe")  # the skills that get an expert and tasks; the base learns all six


def prompt_of(skill: str, text: str) -> str:
    """What the model reads: the first three letters of the skill's name, the input, and an equals sign."""
    return f"{skill[:3]}:{text}="


def part_of(prompt: str) -> Part:
    """Where a prompt belongs, by its CRC: 70 % train, 10 % validation, 20 % test.

    The prompt alone decides, so a held-out prompt is never trained on, by whichever model and with whichever seed.
    """
    bucket = zlib.crc32(prompt.encode()) % 10
    if bucket < 7:
        return "train"
    return "validation" if bucket == 7 else "test"


def draw(skill: str, part: Part, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Prompt and answer pairs of one part of a skill, without end and with repetitions."""
    while True:
        text = "".join(rng.choices(LETTERS, k=rng.randint(SHORTEST, LONGEST)))
        prompt = prompt_of(skill, text)
        if part_of(prompt) == part:
            yield prompt, SKILLS[skill](text)


def draw_distinct(skill: str, part: Part, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """The first `count` different pairs of `draw`."""
    found: dict[str, str] = {}
    for prompt, answer in draw(skill, part, rng):
        found.setdefault(prompt, answer)
        if len(found) == count:
            break
    return list(found.items())
