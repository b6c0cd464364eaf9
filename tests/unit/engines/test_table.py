"""What the table of engines promises before any engine is made."""

import subprocess
import sys

from optimizer.engines import ENGINES
from optimizer.engines.seeds import seed_for


def test_the_names_of_the_engines_cost_no_import_of_optuna() -> None:
    code = (
        "import sys; from optimizer.engines import ENGINES; print([m for m in ('optuna', 'cmaes') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_engine_stands_in_the_table_under_its_own_name() -> None:
    assert list(ENGINES) == ["cma-es", "tpe", "gp", "random", "nsga2", "nsga3"]
    assert all(entry.name == name for name, entry in ENGINES.items())


def test_a_seed_depends_on_the_job_and_on_every_part_of_its_purpose() -> None:
    seeds = [seed_for(0, "tpe", 1), seed_for(1, "tpe", 1), seed_for(0, "gp", 1), seed_for(0, "tpe", 2)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)
    # printf '[0, "tpe", 1]' | sha256sum | head -c 8
    assert seed_for(0, "tpe", 1) == 0xFCEF5EBA
