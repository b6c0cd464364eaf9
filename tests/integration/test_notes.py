"""A job's page in the dashboard says what is searched and found, shows pictures, and never stands in the way."""

import http.client
import json
import logging
import xml.dom.minidom
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import func, select

from optimizer.artifacts import LARGEST, Album, Artifacts, table
from optimizer.dashboard import make_dashboard
from optimizer.jobs import LeaseLost
from optimizer.notes import MOST_FINALISTS, Notes
from optimizer.results import Results
from optimizer.study import all_trials
from tests.integration.search.bench import Attempt, Bench, FormulaPool, scored
from tests.integration.watching import bench_of, notes_of, results_of, watched

BOUNDED: dict[str, Any] = {
    "evaluate": {"tasks": ["north_task", {"task": "south_task", "bound": {"at_most": 0.62}}]},
}


@dataclass
class Shown:
    """What the dashboard's own pages are made from."""

    port: int
    study: dict[str, Any]

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def trial(self, number: int) -> dict[str, Any]:
        return next(trial for trial in self.study["trials"] if trial["number"] == number)


@contextmanager
def dashboard(bench: Bench) -> Iterator[Shown]:
    with make_dashboard(bench.url, 0) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            shown = Shown(server.server_port, {})
            shown.study = json.loads(shown.get("/api/studies/1")[2])
            yield shown
        finally:
            server.shutdown()
            thread.join()


def prepared(bench: Bench) -> Bench:
    table.create(bench.database, checkfirst=True)
    return bench


@dataclass
class Finished:
    bench: Bench
    attempt: Attempt
    results: Results


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    bench = prepared(bench_of(tmp_path_factory.mktemp("notes"), 24))
    made: dict[str, Notes] = {}

    def told(attempt: Attempt) -> Any:
        made["notes"] = notes_of(bench, attempt)
        made["notes"].begin()
        return made["notes"].told

    attempt = watched(bench, told)
    results = results_of(bench, attempt)
    made["notes"].done(results)
    return Finished(bench, attempt, results)


def test_the_page_of_a_done_job_has_its_winner_with_intervals_its_recipe_and_how_to_export_it(
    finished: Finished,
) -> None:
    with dashboard(finished.bench) as shown:
        body = shown.study["note"]["body"]
    results = finished.results
    winner = next(one for one in results.test if one.kind == "winner")
    found = winner.objectives["score"]
    assert "**State: done**" in body
    assert f"**Winner: {winner.label}" in body or f"**Winner: trial {winner.trial}, {winner.label}" in body
    assert f"| **{winner.label}** | {found.mean:.4f} | {found.low:.3f} to {found.high:.3f} |" in body
    assert "mergeopt export bench FOLDER" in body
    recipe = finished.attempt.coordinator.recipe(all_trials(finished.attempt.study)[winner.trial or 0])
    assert "method: task_arithmetic" in body
    assert f"layer.0.attention: {list(recipe.coefficients['layer.0.attention'])}" in body
    assert "budget: {trials: 24" in body  # of the job file
    assert "north\\_task" in body  # a task's name is no markup


def test_the_pictures_are_served_from_the_database_and_can_run_nothing(finished: Finished) -> None:
    with dashboard(finished.bench) as shown:
        listed = {one["filename"]: one for one in shown.study["artifacts"]}
        assert set(listed) == {"Coefficients.svg", "Trials.svg", "Scores.svg", "Scores by task.svg"}
        for one in listed.values():
            address = f"/artifacts/1/{one['artifact_id']}"
            status, headers, body = shown.get(address)
            assert status == 200
            assert headers["Content-Type"] == "image/svg+xml"
            assert "sandbox" in headers["Content-Security-Policy"]
            assert "Access-Control-Allow-Origin" not in headers
            xml.dom.minidom.parseString(body)
            assert len(body) < 64 * 1024
            assert address in shown.study["note"]["body"]


def test_every_finalist_has_a_page_and_a_heat_map_of_its_own(finished: Finished) -> None:
    finalists = {one.trial for one in finished.results.select}
    with dashboard(finished.bench) as shown:
        with_pages = {trial["number"] for trial in shown.study["trials"] if trial["note"]["body"]}
        assert with_pages == finalists
        for number in finalists:
            trial = shown.trial(number or 0)
            (picture,) = trial["artifacts"]
            status, _, body = shown.get(f"/artifacts/1/{trial['trial_id']}/{picture['artifact_id']}")
            assert status == 200
            assert b"attention" in body
            assert picture["artifact_id"] in trial["note"]["body"]
            assert ("This trial is the winner" in trial["note"]["body"]) == (number == finished.results.winner)
    assert len(finalists) <= MOST_FINALISTS


def test_each_task_and_cost_is_a_number_that_the_dashboard_can_plot(finished: Finished) -> None:
    with dashboard(finished.bench) as shown:
        plotted = {one["key"] for one in shown.study["union_user_attrs"] if one["sortable"]}
    assert {"north_task: acc", "south_task: acc", "standard error of score", "examples", "seconds"} <= plotted


def test_the_dashboards_best_trial_is_the_winner(finished: Finished) -> None:
    with dashboard(finished.bench) as shown:
        assert [trial["number"] for trial in shown.study["best_trials"]] == [finished.results.winner]
        attributes = {one["key"]: one["value"] for one in shown.study["user_attrs"]}
    assert attributes["winner"] == str(finished.results.winner)
    assert attributes["best trial"].startswith(f"trial {finished.results.winner}")


def test_trials_beyond_a_bound_are_shown_as_such_and_never_as_the_best(tmp_path: Path) -> None:
    bench = prepared(bench_of(tmp_path, 40, **BOUNDED))
    attempt = watched(bench, lambda _: lambda _: None)
    notes_of(bench, attempt).begin()
    trials = all_trials(attempt.study)
    beyond = {trial.number for trial in trials if any(value > 0 for value in trial.constraints.values())}
    assert beyond
    highest = max(trials, key=lambda trial: trial.value or 0.0).number
    assert highest in beyond  # otherwise the test shows nothing
    with dashboard(bench) as shown:
        told = {trial["number"] for trial in shown.study["trials"] if any(one > 0 for one in trial["constraints"])}
        assert told == beyond
        (best,) = shown.study["best_trials"]
        assert best["number"] not in beyond
        assert f"**Best so far: trial {best['number']}" in shown.study["note"]["body"].replace(", ", " ", 1)
        assert "Bounds go before scores" in shown.study["note"]["body"]
    assert all(trial.constraints.keys() == {"south_task"} for trial in all_trials(bench.study()) if trial.values)


def test_several_objectives_have_their_names_their_front_and_a_note_on_what_best_means(tmp_path: Path) -> None:
    two = {
        "evaluate": {
            "tasks": [{"task": "north_task", "objective": "north"}, {"task": "south_task", "objective": "south"}]
        },
        "search": {"engine": "nsga2", "budget": {"trials": 30}},
    }
    bench = prepared(bench_of(tmp_path, 30, **two))
    attempt = watched(bench, lambda _: lambda _: None)
    notes_of(bench, attempt).done(results_of(bench, attempt))
    with dashboard(bench) as shown:
        assert shown.study["objective_names"] == ["north", "south"]
        names = {one["filename"] for one in shown.study["artifacts"]}
        assert {"Front.svg", "Trials of north.svg", "Scores of south.svg"} <= names
        assert "With several objectives no trial is best in all of them" in shown.study["note"]["body"]


def test_a_long_search_writes_a_bounded_number_of_pages(tmp_path: Path) -> None:
    bench = prepared(bench_of(tmp_path, 200))
    asked: list[str] = []

    def told(attempt: Attempt) -> Any:
        notes = notes_of(bench, attempt)
        results = notes.results
        notes.results = lambda state: (asked.append(state), results(state))[1]  # type: ignore[func-returns-value]
        notes.begin()
        return notes.told

    watched(bench, told)
    assert asked == ["running"] * 6  # at the start, and after 8, 16, 32, 64 and 128 trials


def test_pages_are_not_written_faster_than_now_and_then(tmp_path: Path) -> None:
    bench = prepared(bench_of(tmp_path, 40))
    versions: list[int] = []

    def told(attempt: Attempt) -> Any:
        notes = notes_of(bench, attempt, seconds_between=3600.0)
        notes.begin()
        return notes.told

    attempt = watched(bench, told)
    versions.append(attempt.study._storage.get_study_system_attrs(attempt.study._study_id)["dashboard:note_ver"])
    assert versions == [1]


def test_a_page_that_cannot_be_written_is_logged_and_the_search_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = bench_of(tmp_path, 24)  # without the pictures' table: nothing can be drawn
    with bench.database.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS mergeopt_artifacts")

    def told(attempt: Attempt) -> Any:
        notes = notes_of(bench, attempt)
        notes.begin()
        return notes.told

    with caplog.at_level(logging.WARNING):
        attempt = watched(bench, told)
    assert sum(trial.state == TrialState.COMPLETE for trial in all_trials(attempt.study)) == 24
    assert "the page of job `bench` in the dashboard could not be written" in caplog.text
    assert "mergeopt_artifacts" in caplog.text


def test_a_failed_job_says_why_on_its_page(tmp_path: Path) -> None:
    bench = prepared(bench_of(tmp_path, 24))
    pool = FormulaPool(1, lambda unit: scored(unit, error="a broken merge") if unit.key == "12/search" else None)
    attempt = watched(bench, lambda _: lambda _: None, pool)
    notes_of(bench, attempt).stopped("failed", "the disk is full")
    with dashboard(bench) as shown:
        body = shown.study["note"]["body"]
    assert "**State: failed**" in body
    assert "the disk is full" in body
    assert "1 trial failed" in body


def test_pictures_that_are_drawn_again_replace_one_another(tmp_path: Path) -> None:
    bench = prepared(bench_of(tmp_path, 12))
    attempt = watched(bench, lambda _: lambda _: None)
    counts = []
    for _ in range(2):
        notes_of(bench, attempt).begin()
        with bench.database.connect() as connection:
            counts.append(connection.scalar(select(func.count()).select_from(table)))
    assert counts[0] == counts[1] == 2  # the heat map and the trials


def test_an_attempt_that_lost_its_job_draws_nothing(tmp_path: Path) -> None:
    bench = prepared(bench_of(tmp_path, 12))
    attempt = watched(bench, lambda _: lambda _: None)
    notes = notes_of(bench, attempt)
    old = Album(bench.database, attempt.study, notes.job.id, notes.job.attempt - 1)
    with pytest.raises(LeaseLost):
        old.show("Coefficients", "<svg/>")
    with bench.database.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(table)) == 0


def test_a_picture_that_is_too_large_is_refused(tmp_path: Path) -> None:
    bench = prepared(bench_of(tmp_path, 12))
    attempt = watched(bench, lambda _: lambda _: None)
    job = notes_of(bench, attempt).job
    with pytest.raises(ValueError, match=f"at most {LARGEST:,} bytes"):
        Album(bench.database, attempt.study, job.id, job.attempt).show("huge", "x" * (LARGEST + 1))


def test_the_store_takes_no_files_of_others(tmp_path: Path) -> None:
    bench = prepared(bench_of(tmp_path, 12))
    page = tmp_path / "page.html"
    page.write_text("<script>alert(1)</script>")
    with pytest.raises(PermissionError), page.open("rb") as file:
        Artifacts(bench.database).write("0", file)


def test_what_models_and_tasks_are_called_cannot_become_markup(finished: Finished) -> None:
    from optimizer.note_text import study_note

    hostile = "`x` | <img src=x> [y](http://evil.example) ```\n# title"
    results = replace(finished.results, base=hostile, notes=(hostile,), error=hostile)
    body = study_note(results, {"base": hostile}, None, {})
    outside = "".join(part for place, part in enumerate(body.split("````")) if place % 2 == 0)
    assert "<img" not in outside.replace("\\<img", "")
    assert "](http" not in outside.replace("\\]\\(http", "")
    assert "\n# title" not in outside
