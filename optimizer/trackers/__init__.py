"""Reporting a search to the experiment trackers people already have: one file for each, one table of all."""

import importlib.util
from collections.abc import Callable, Sequence
from importlib import import_module

from optimizer.errors import InputError
from optimizer.trackers.protocol import Run, Tracker

# The tracker's name in a job file, its module here, and the package it is a guest of.
TRACKERS = {
    "tensorboard": ("optimizer.trackers.tensorboard", "tensorboardX"),
    "mlflow": ("optimizer.trackers.mlflow", "mlflow"),
    "wandb": ("optimizer.trackers.wandb", "wandb"),
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise `InputError` where the package of one of them is not installed here."""
    missing = [name for name in names if importlib.util.find_spec(TRACKERS[name][1]) is None]
    if missing:
        packages = ", ".join(TRACKERS[name][1] for name in missing)
        raise InputError(
            f"`report_to` names {', '.join(missing)}, which must be installed wherever jobs are carried out, but here "
            f"there is no package {packages}. Install it with: pip install 'mergeopt[trackers]', or take it out of "
            "`report_to`."
        )


def opener(name: str) -> Callable[[Run], Tracker]:
    """What opens the tracker of that name. Importing its package takes a second, and is left to whoever calls it."""

    def opened(run: Run) -> Tracker:
        tracker: Tracker = import_module(TRACKERS[name][0]).open_tracker(run)
        return tracker

    return opened
