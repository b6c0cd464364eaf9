"""The job table can be read by a command that loads nothing else."""

import subprocess
import sys


def test_reading_jobs_loads_neither_torch_nor_ray_nor_optuna_nor_alembic() -> None:
    code = "import sys, optimizer.jobs; print(' '.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    heavy = {"torch", "ray", "optuna", "alembic", "lm_eval", "transformers", "pandas", "pydantic"}
    assert not heavy & set(loaded)
