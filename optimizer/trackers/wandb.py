"""Report a search to Weights & Biases; its only home.

Key, project, entity and mode (`WANDB_MODE=offline`) come from wandb's own variables, of the process that carries the
job out; the project is `mergeopt` where they name none. Of the machine nothing is sent: no host name, no console, no
code, no load.
"""

import os
from collections.abc import Mapping
from typing import Any

import wandb

from optimizer.trackers.protocol import Run, Told

PROJECT = "mergeopt"
STEP = "trial"  # what curves are drawn over; wandb's own step counts calls


def open_tracker(run: Run) -> "WandbRun":
    """Begin the job's run, or go on with it."""
    return WandbRun(run)


class WandbRun:
    """One run, whose id is the job's."""

    def __init__(self, run: Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            id=run.key(),
            name=run.job,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
            ),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)

    def reported(self) -> None:
        """wandb does not say what a run already has, least of all offline."""

    def trial(self, told: Told) -> None:
        """Handed to wandb's own process, which sends it."""
        self._run.log({**told.figures, STEP: told.number})

    def done(self, figures: Mapping[str, float]) -> None:
        """The run's summary."""
        self._run.summary.update(dict(figures))

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()
