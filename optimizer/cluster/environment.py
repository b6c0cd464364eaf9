"""Settings of Ray that it reads from the environment, for this process and the nodes it starts."""

import os


def prepare_environment() -> None:
    """Set what we want of Ray, unless somebody has set it otherwise."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves workers on a shared machine
