"""The tiny models and their tasks, made once for every test that wants something real to merge."""

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("mergeopt", deadline=None)  # what a test says does not depend on how busy the machine is
settings.load_profile("mergeopt")

TINY = Path(__file__).resolve().parents[1] / "examples" / "tiny"


@dataclass(frozen=True)
class Tiny:
    """Where they are: `models/base`, `models/<skill>`, and lm-eval's `tasks/tiny_<skill>.yaml`."""

    models: Path
    tasks: Path


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """One to two minutes of one core the first time, a second after that. Test processes wait for one another."""
    folder = os.open(TINY, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # closing gives it back
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, str(TINY / "make.py")], check=True, env=environment)
    finally:
        os.close(folder)
    return Tiny(TINY / "models", TINY / "tasks")
