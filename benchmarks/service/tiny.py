"""A job over the tiny models of `examples/tiny`, for what only a whole command or a real worker can show."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny"
SKILLS = ("reverse", "rotate")


def tiny_job(name: str, trials: int, limit: Mapping[str, int]) -> dict[str, Any]:
    """The content of its file: a random search of so many trials, on so many examples of each split and task."""
    tasks = [{"task": f"tiny_{skill}", "metric": "exact_match", "limit": dict(limit)} for skill in SKILLS]
    experts = {skill: str(TINY / "models" / skill) for skill in SKILLS}
    return {
        "name": name,
        "models": {"base": str(TINY / "models" / "base"), "experts": experts},
        "space": {"granularity": "layerwise"},
        "evaluate": {"include_path": str(TINY / "tasks"), "tasks": tasks},
        "search": {"engine": "random", "budget": {"trials": trials}},
    }
