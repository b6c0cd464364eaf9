"""Trackers are told every trial once, over all attempts, and never hold up or fail the search."""

import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from optuna.trial import TrialState

from optimizer.errors import InputError
from optimizer.results import Results
from optimizer.spec import TrackerName
from optimizer.study import known
from optimizer.trackers import TRACKERS, check_trackers, opener
from optimizer.trackers.protocol import Run, Told, Tracker
from optimizer.trackers.reporting import Reporting, settings_of
from tests.integration.search.bench import Attempt, Bench, FormulaPool, dies_after, scored
from tests.integration.watching import PassedOn, bench_of, results_of

SUBMITTED = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Recording:
    """A tracker that keeps what it is told, over all attempts."""

    trials: list[Told] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)
    opened: int = 0
    closed: int = 0
    knows: bool = True

    def open(self, _run: Run) -> Tracker:
        self.opened += 1
        return self

    def reported(self) -> set[int] | None:
        return {told.number for told in self.trials} if self.knows else None

    def trial(self, told: Told) -> None:
        self.trials.append(told)

    def done(self, figures: Mapping[str, float]) -> None:
        self.final |= figures

    def close(self) -> None:
        self.closed += 1


def run_of(bench: Bench) -> Run:
    return Run(bench.job.name, 1, SUBMITTED, bench.folder, settings_of(bench.job.model_dump(mode="json")))


def reported(
    bench: Bench, names: tuple[str, ...], open_by: Callable[[str], Any] = opener, dies: int = 0
) -> tuple[Attempt, Results | None]:
    """One attempt that reports; with `dies`, stopped at that call as by a signal."""
    pool = FormulaPool(1, lambda unit: scored(unit, error="a broken merge") if unit.key == "12/search" else None)
    attempt = bench.attempt(pool, dies_after(dies) if dies else lambda: None)
    reporting = Reporting(names, run_of(bench), bench.job.objectives(), lambda: known(attempt.study), open_by)
    reporting.begin()
    attempt.coordinator.progress = PassedOn(attempt.study, lambda number: reporting.told(known(attempt.study)[number]))
    results = None
    try:
        attempt.coordinator.search()
        results = results_of(bench, attempt)
        reporting.done(results)
    except Exception:
        if not dies:
            raise
        from optimizer.jobs import release

        release(bench.database, attempt.evidence.job_id, attempt.evidence.attempt)
    reporting.close()
    return attempt, results


def test_each_told_trial_is_reported_with_its_figures_and_the_best_so_far(tmp_path: Path) -> None:
    kept = Recording()
    bench = bench_of(tmp_path, 24)
    attempt, results = reported(bench, ("any",), lambda _: kept.open)
    assert results is not None
    assert sorted(told.number for told in kept.trials) == list(range(24))
    best = 0.0
    for told in kept.trials:
        trial = known(attempt.study)[told.number]
        if trial.state == TrialState.FAIL:
            assert told.figures["trial/failed"] == 1.0
            assert "objective/score" not in told.figures
            continue
        best = max(best, trial.values[0])
        assert told.figures["trial/failed"] == 0.0
        assert told.figures["objective/score"] == trial.values[0]
        assert told.figures["task/north_task"] == trial.user_attrs["tasks"]["north_task"]["metric"]
        assert told.figures["trial/examples"] == 40.0
        assert told.figures["best/score"] == best
    winner = next(one for one in results.test if one.kind == "winner")
    assert kept.final["final/score"] == winner.objectives["score"].mean
    assert kept.final["final/score low"] == winner.objectives["score"].low
    assert kept.final["final/winner"] == results.winner
    assert (kept.opened, kept.closed) == (1, 1)


@pytest.mark.parametrize("knows", [True, False])
def test_after_a_restart_no_trial_is_reported_twice_and_none_is_left_out(tmp_path: Path, knows: bool) -> None:
    kept = Recording(knows=knows)
    bench = bench_of(tmp_path, 24)
    reported(bench, ("any",), lambda _: kept.open, dies=15)
    assert 0 < len(kept.trials) < 24
    reported(bench, ("any",), lambda _: kept.open)
    assert sorted(told.number for told in kept.trials) == list(range(24))
    assert kept.opened == 2


def test_a_tracker_is_told_what_it_did_not_hear_of_before(tmp_path: Path) -> None:
    kept = Recording()
    bench = bench_of(tmp_path, 24)
    reported(bench, (), dies=15)  # its machine was away
    attempt, _ = reported(bench, ("any",), lambda _: kept.open)
    assert sorted(told.number for told in kept.trials) == list(range(24))
    last = max(kept.trials, key=lambda told: told.at)
    assert last.figures["best/score"] == max(trial.values[0] for trial in known(attempt.study) if trial.values)


@pytest.mark.parametrize("breaks", ["open", "trial", "done", "close"])
def test_a_tracker_that_fails_is_named_once_and_the_search_ends_as_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, breaks: str
) -> None:
    class Broken(Recording):
        pass

    def fail(*_: Any) -> None:
        raise ConnectionError("the server is away")

    setattr(Broken, breaks, fail)
    healthy, broken = Recording(), Broken()
    bench = bench_of(tmp_path, 24)
    with caplog.at_level(logging.WARNING):
        _, results = reported(bench, ("broken", "healthy"), lambda name: (broken if name == "broken" else healthy).open)
    assert results is not None
    assert results.winner is not None
    said = [record.message for record in caplog.records if "reported to" in record.message]
    assert said == ["nothing more of job `bench` is reported to broken: ConnectionError: the server is away"]
    assert len(healthy.trials) == 24


def test_a_tracker_that_hangs_costs_the_search_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    free = threading.Event()

    class Hanging(Recording):
        def trial(self, told: Told) -> None:  # noqa: ARG002 - it never gets that far
            free.wait(60)

    hanging = Hanging()
    bench = bench_of(tmp_path, 24)
    attempt = bench.attempt(FormulaPool())
    reporting = Reporting(("slow",), run_of(bench), ["score"], lambda: known(attempt.study), lambda _: hanging.open)
    reporting.begin()
    told: list[float] = []

    def tell(number: int) -> None:
        began = time.thread_time()
        reporting.told(known(attempt.study)[number])
        told.append(time.thread_time() - began)

    attempt.coordinator.progress = PassedOn(attempt.study, tell)
    attempt.coordinator.search()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        reporting.close(seconds=0.2)
    assert time.monotonic() - began < 10
    assert len(told) == 24
    assert "is reported to slow: it did not take everything in time" in caplog.text
    free.set()


def test_a_missing_package_is_refused_with_what_to_install() -> None:
    missing = [name for name, (_, package) in TRACKERS.items() if importlib.util.find_spec(package) is None]
    if not missing:
        pytest.skip("all trackers' packages are installed here")
    with pytest.raises(InputError, match=rf"{missing[0]}.*pip install 'mergeopt\[trackers\]'"):
        check_trackers(missing)


def test_the_job_file_names_exactly_the_trackers_there_are() -> None:
    assert set(get_args(TrackerName)) == set(TRACKERS)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [("mlflow", "must be a list"), (["mlflow", "mlflow"], "each tracker once"), (["neptune"], "'tensorboard'")],
)
def test_what_the_job_file_cannot_mean_is_refused(tmp_path: Path, names: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        bench_of(tmp_path, 9, report_to=names)


def test_settings_are_the_job_file_in_flat_words(tmp_path: Path) -> None:
    settings = run_of(bench_of(tmp_path, 9)).settings
    assert settings["search.budget.trials"] == "9"
    assert settings["models.experts.north.path"] == "north"
    assert settings["search.scales"] == "0.2, 0.3, 0.4, 0.5, 0.6"
    assert all(isinstance(value, str) and value for value in settings.values())


def test_two_jobs_of_one_name_are_two_runs(tmp_path: Path) -> None:
    def key(job: str, at: datetime) -> str:
        return Run(job, 1, at, tmp_path, {}).key()

    assert key("a job", SUBMITTED) == key("a job", SUBMITTED)
    assert len({key("a job", SUBMITTED), key("a-job", SUBMITTED), key("a job", SUBMITTED.replace(day=2))}) == 3
    assert len(key("n" * 100, SUBMITTED)) <= 64


# ---- the trackers themselves, each as far as its package is installed


@pytest.fixture(params=list(TRACKERS))
def tracker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracker by its name, on this machine only."""
    package = TRACKERS[request.param][1]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed here: pip install 'mergeopt[trackers]'")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return str(request.param)


def curves_of(tracker: str, folder: Path) -> dict[str, dict[int, float]]:
    """What the tracker has on this machine: a name, then step and value. A point that stands twice is refused."""
    found: dict[str, dict[int, float]] = {}
    for name, step, value in {"tensorboard": _events, "mlflow": _runs, "wandb": _offline}[tracker](folder):
        points = found.setdefault(name, {})
        assert step not in points, f"{name} has two points at {step}"
        points[step] = value
    return found


def _events(folder: Path) -> Iterator[tuple[str, int, float]]:
    from tensorboardX.proto.event_pb2 import Event

    from optimizer.trackers.tensorboard import _records

    for file in sorted((folder / "tensorboard").glob("events*")):
        for record in _records(file):
            event = Event.FromString(record)
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    yield value.tag, event.step, value.simple_value


def _runs(folder: Path) -> Iterator[tuple[str, int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "mergeopt"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "bench"
    assert run.data.params["search.budget.trials"] == "24"
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            yield name, metric.step, metric.value


def _offline(folder: Path) -> Iterator[tuple[str, int, float]]:
    import json

    from wandb.proto.wandb_internal_pb2 import Record

    ids = set()
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in _blocks(file.read_bytes()[7:], first=32768 - 7):
            record = Record.FromString(data)
            if record.run.run_id:
                ids.add(record.run.run_id)
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if "trial" in row and name != "trial" and not name.startswith("_"):
                    yield name, row["trial"], value
            for item in record.summary.update:
                name = item.key or ".".join(item.nested_key)
                if name.startswith("final/"):
                    yield name, 0, json.loads(item.value_json)
    assert len(ids) == 1


def _blocks(content: bytes, first: int) -> Iterator[bytes]:
    """The records of LevelDB's log format, which wandb's files have after their own seven bytes."""
    place, room, parts = 0, first, b""
    while place + 7 <= len(content):
        if room < 7:
            place, room = place + room, 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place, room = place + 7 + length, room - 7 - length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_a_tracker_has_one_point_for_each_trial_over_a_restart(tracker: str, tmp_path: Path) -> None:
    bench = bench_of(tmp_path, 24)
    reported(bench, (tracker,), dies=15)
    attempt, results = reported(bench, (tracker,))
    assert results is not None
    curves = curves_of(tracker, tmp_path)
    trials = {trial.number: trial for trial in known(attempt.study)}
    assert set(curves["trial/failed"]) == set(trials)
    scores = {number: trial.values[0] for number, trial in trials.items() if trial.values}
    assert curves["objective/score"] == pytest.approx(scores, rel=1e-6)
    winner = next(one for one in results.test if one.kind == "winner")
    assert list(curves["final/score"].values()) == [pytest.approx(winner.objectives["score"].mean, rel=1e-6)]


def test_an_event_file_that_was_torn_by_a_kill_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    bench = bench_of(tmp_path, 24)
    reported(bench, ("tensorboard",), dies=15)
    (file,) = (tmp_path / "tensorboard").glob("events*")
    file.write_bytes(file.read_bytes()[:-7])
    reported(bench, ("tensorboard",))
    assert set(curves_of("tensorboard", tmp_path)["trial/failed"]) == set(range(24))
