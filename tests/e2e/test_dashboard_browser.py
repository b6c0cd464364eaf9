"""The dashboard in a real browser: what a person sees of a job that was searched."""

import html
import re
import shutil
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimizer.dashboard import HOST, make_dashboard
from tests.integration.search.bench import Bench, FormulaPool, job_file, scored

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
    "--dump-dom",
)


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        reason = f"the dashboard is not tested in a browser: none of {', '.join(BROWSERS)} is installed"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A searched TIES job: its parents are trials without parameters, and one trial failed."""
    job = job_file(
        name="ties-of-two",
        method={"name": "ties", "density": 0.3},
        search={"engine": "random", "budget": {"trials": 20}},
    )
    made = Bench(tmp_path_factory.mktemp("bench"), job)
    pool = FormulaPool(1, lambda unit: scored(unit, error="a broken merge") if unit.key == "12/search" else None)
    made.attempt(pool).coordinator.search()
    return made


@pytest.fixture(scope="module")
def address(bench: Bench) -> Iterator[str]:
    with make_dashboard(bench.url, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


def seen(browser: str, address: str, profile: Path) -> str:
    """The text of a page after its scripts have run."""
    command = [browser, *FLAGS, f"--user-data-dir={profile}", address]
    page = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    body = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_job_is_on_the_first_page(browser: str, address: str, tmp_path: Path) -> None:
    assert "ties-of-two" in seen(browser, address, tmp_path)


def test_the_study_shows_its_objective_its_best_value_and_its_coefficients(
    browser: str, address: str, bench: Bench, tmp_path: Path
) -> None:
    page = seen(browser, f"{address}/dashboard/studies/1", tmp_path)
    best = bench.study().best_trial
    assert "ties-of-two (id=1)" in page
    assert f"Best Trial (number={best.number}) {best.value}" in page
    assert "History y Axis score" in page
    for name in bench.plan.space(bench.job).distributions():
        assert name in page


def test_every_trial_has_its_state_and_its_own_page(browser: str, address: str, bench: Bench, tmp_path: Path) -> None:
    page = seen(browser, f"{address}/dashboard/studies/1/trials?numbers=3", tmp_path)
    trial = bench.study().trials[3]
    assert "20 Trials Trial 0 Complete Trial 1 Complete" in page
    assert "Trial 12 Fail" in page
    assert f"Trial 3 (trial_id=4) Complete Note Value {trial.value}" in page
    assert f"label {trial.user_attrs['label']}" in page
    assert "north_task" in page  # the scores of its tasks


def test_a_failed_trial_says_why(browser: str, address: str, tmp_path: Path) -> None:
    page = seen(browser, f"{address}/dashboard/studies/1/trials?numbers=12", tmp_path)
    assert "Trial 12 (trial_id=13) Fail" in page
    assert "error a broken merge" in page
