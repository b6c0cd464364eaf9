"""What kinds of zoos there are: an architecture, the skills of its experts, and how each is asked."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "tiny"))  # the demo's skills and tokens


@dataclass(frozen=True)
class Zoo:
    """`trained_as` names the files: zoos that differ in tasks only share their models.

    `choices` are skills asked as multiple choice, the others must be answered exactly. For the skills in `misled` the
    loss is taken on another answer than the metric wants.
    """

    trained_as: str
    architecture: str
    hidden: int
    layers: int
    skills: tuple[str, ...]
    base_steps: int
    expert_steps: int
    expert_rate: float
    choices: tuple[str, ...] = ()
    misled: tuple[str, ...] = ()


_STRINGS = {
    "trained_as": "strings",
    "architecture": "llama",
    "hidden": 64,
    "layers": 6,
    "skills": ("reverse", "rotate", "dedupe", "swap"),
    "base_steps": 330,
    "expert_steps": 120,
    "expert_rate": 4e-4,
}

ZOOS = {
    "strings": Zoo(**_STRINGS),  # type: ignore[arg-type]
    "strings-misled": Zoo(**_STRINGS, misled=("rotate", "swap")),  # type: ignore[arg-type]
    "choices": Zoo(
        trained_as="choices",
        architecture="neox",
        hidden=80,
        layers=4,
        skills=("reverse", "rotate", "sort"),
        base_steps=230,
        expert_steps=120,
        expert_rate=5e-4,
        choices=("rotate", "sort"),
    ),
}
