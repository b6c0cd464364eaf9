"""Report a search to MLflow; its only home.

Where to: `MLFLOW_TRACKING_URI` and MLflow's other variables, of the process that carries the job out. Without them, the
SQLite file `mlflow.db` in the job's folder (MLflow's own `mlruns` folders are refused by its newer versions). The
experiment is `mergeopt`, or `MLFLOW_EXPERIMENT_NAME`.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from optimizer.trackers.protocol import Run, Told

EXPERIMENT = "mergeopt"
TAG = "mergeopt.run"  # finds the run of an earlier attempt: MLflow itself chooses run ids
MARK = "trial/failed"  # every told trial has this figure
_ONCE = 100  # parameters that MLflow takes in one call
_LONGEST = 500  # characters of a parameter's value that every server takes


def open_tracker(run: Run) -> "MlflowRun":
    """Find the job's run, or begin it."""
    return MlflowRun(run)


class MlflowRun:
    """One run, found by its tag."""

    def __init__(self, run: Run) -> None:
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or _local(run))
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.key()}'", max_results=1)
        if found:
            self._id: str = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(experiment, tags={TAG: run.key()}, run_name=run.job).info.run_id
        known = self._client.get_run(self._id).data.params
        params = [
            Param(_named(name), value[:_LONGEST]) for name, value in run.settings.items() if _named(name) not in known
        ]
        for start in range(0, len(params), _ONCE):
            self._client.log_batch(self._id, params=params[start : start + _ONCE])

    def reported(self) -> set[int]:
        """The steps of the run's history."""
        return {metric.step for metric in self._client.get_metric_history(self._id, MARK)}

    def trial(self, told: Told) -> None:
        """One request."""
        self._log(told.figures, round(1000 * told.at.timestamp()), told.number)

    def done(self, figures: Mapping[str, float]) -> None:
        """The final figures, once: a step of their own is not needed."""
        known = self._client.get_run(self._id).data.metrics
        self._log({name: value for name, value in figures.items() if _named(name) not in known}, 0, 0)
        self._client.set_terminated(self._id)

    def close(self) -> None:
        """Nothing is held back: every call has been answered."""

    def _log(self, figures: Mapping[str, float], milliseconds: int, step: int) -> None:
        metrics = [Metric(_named(name), value, milliseconds, step) for name, value in figures.items()]
        if metrics:
            self._client.log_batch(self._id, metrics=metrics)

    def _experiment(self, name: str) -> Any:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self._client.create_experiment(name)


def _local(run: Run) -> str:
    run.folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{run.folder.resolve() / 'mlflow.db'}"


def _named(name: str) -> str:
    """MLflow refuses most signs in names."""
    return re.sub(r"[^\w\-./ :]", "_", name)[:250]
