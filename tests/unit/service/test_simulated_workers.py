"""Simulated workers behave like workers whose answers are known beforehand."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.service.simulated import Scaled, SimulatedPool, Skipping, answer, lasting, scores
from optimizer.pool import Unit
from optimizer.scorer import Round, finished_from
from optimizer.worker import Scored

RECIPE = {"experts": {"a": {}, "b": {}}, "coefficients": {"layer.0.mlp": [0.5, 0.25], "head": [1.0, 0.0]}}
IDS = tuple(f"{task}:{number}" for task in ("one", "two") for number in range(10))


def _unit(key: str = "0/search", **changes: object) -> Unit:
    return Unit(key=key, recipe=RECIPE, ids=IDS, **changes)  # type: ignore[arg-type]


def test_two_processes_say_the_same_of_a_recipe_and_different_things_of_two() -> None:
    code = f"from benchmarks.service.simulated import scores; print(scores({RECIPE!r}, {IDS!r}))"
    other = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert other.stdout.strip() == str(scores(RECIPE, IDS))
    changed = RECIPE | {"coefficients": {"layer.0.mlp": [0.5, 0.26], "head": [1.0, 0.0]}}
    assert all(ours != its for ours, its in zip(scores(RECIPE, IDS), scores(changed, IDS), strict=True))


def test_an_example_is_scored_the_same_whatever_it_is_scored_with() -> None:
    assert scores(RECIPE, IDS[3:5]) == scores(RECIPE, IDS)[3:5]


def test_answers_have_the_form_of_a_worker_s() -> None:
    scored = answer(_unit())
    assert Scored(**scored).ids == list(IDS)
    outcomes = finished_from(Round(0, "search", None), scored).outcomes  # type: ignore[arg-type]
    assert {outcome.metric for outcome in outcomes} <= {0.0, 1.0}
    assert all(0 < (outcome.smooth or 0) < 1 for outcome in outcomes)
    sloped = answer(_unit(scales={"one": 1.0, "two": 0.5}))
    assert len(sloped["losses"]) == len(IDS)
    assert {group: len(row) for group, row in sloped["rows"].items()} == {"layer.0.mlp": 2, "head": 2}


def test_a_clock_that_skips_counts_the_workers_time_and_what_its_user_needs_and_nothing_else() -> None:
    pool = SimulatedPool(2, lasting(30.0), Skipping())
    began, real = pool.clock.now(), time.perf_counter()
    pool.submit(_unit("0/search"))
    time.sleep(0.05)
    pool.submit(_unit("1/search"))
    assert pool.idle() == 0
    with pytest.raises(RuntimeError, match="all 2 are busy"):
        pool.submit(_unit("2/search"))
    assert pool.wait(1.0) == []
    found = [pool.wait(60.0), pool.wait(60.0)]
    assert [one.unit.key for answers in found for one in answers] == ["0/search", "1/search"]
    assert pool.clock.now() - began == pytest.approx(30.05, abs=0.04)
    assert time.perf_counter() - real < 10
    assert [end - start for start, end in pool.spans] == pytest.approx([30.0, 30.0])


def test_a_scaled_clock_sleeps_so_many_times_less() -> None:
    pool = SimulatedPool(1, lasting(4.0, spread=0.5), Scaled(speed=40.0))
    pool.submit(_unit())
    began = time.monotonic()
    while not pool.wait(1.0):
        assert time.monotonic() - began < 10
    assert time.monotonic() - began >= 2.0 / 40


def test_a_worker_may_be_lost_as_often_as_wanted() -> None:
    pool = SimulatedPool(1, lasting(1.0), Skipping(), lost=lambda unit, before: unit.key == "3/search" and before < 2)
    said = []
    for key in ("2/search", "3/search", "3/search", "3/search"):
        pool.submit(_unit(key))
        said += pool.wait(2.0)
    assert [one.scored is None for one in said] == [False, True, True, False]
    assert said[1].lost is not None
