"""A search by `auto` that ends before any one of its writes to the study, and goes on: nothing is opened twice."""

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from optimizer.study import all_trials
from tests.integration.search.auto_bench import AutoBench, let_go, pool_of
from tests.integration.search.bench import job_file, told

# The parents lie outside of these bounds, so they are trials that carry a recipe and have no parameters.
JOB = job_file(
    space={"granularity": "grown", "bounds": [0.0, 0.6]}, search={"engine": "auto", "budget": {"examples": 5000}}
)
MOMENTS = range(1, 11) if os.environ.get("MERGEOPT_CHAOS") == "long" else (1, 2, 4)


class Struck(BaseException):
    """The process ends here, as far as the database can tell."""


def _strike(engine: Engine, at: int) -> None:
    """Before the transaction that has the so-manieth change of a trial's row."""
    left = [at]

    @event.listens_for(engine, "before_cursor_execute")
    def on_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("INSERT INTO TRIALS", "UPDATE TRIALS")):
            left[0] -= 1
            if left[0] == 0:
                raise Struck


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    bench = AutoBench(tmp_path_factory.mktemp("undisturbed"), JOB)
    ending = bench.conductor(pool_of()).search()
    return told(bench.study()), ending


@pytest.mark.parametrize("at", MOMENTS)
def test_a_search_struck_before_a_write_to_the_study_comes_to_the_same(
    tmp_path: Path, undisturbed: Any, at: int
) -> None:
    bench = AutoBench(tmp_path, JOB)
    first = bench.conductor(pool_of())
    _strike(first.study._storage._backend.engine, at)  # type: ignore[attr-defined]
    with pytest.raises(Struck):
        first.search()
    let_go(first)
    second = bench.conductor(pool_of())
    assert (second.search(), told(bench.study())) == (undisturbed[1], undisturbed[0])
    assert {trial.state.name for trial in all_trials(second.study)} == {"COMPLETE"}
