"""What a controller counts of its own doings, for whoever watches it."""

from dataclasses import dataclass


@dataclass
class Counts:
    """Kept up to date by one controller, read from other threads. `died`: of those started, ended without a word."""

    coordinators: int = 0
    cluster_up: bool = False
    looks: int = 0
    started: int = 0
    died: int = 0
