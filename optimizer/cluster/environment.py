"""Settings of Ray that it reads from the environment, for this process and the nodes it starts."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def prepare_environment() -> None:
    """Set what we want of Ray, unless somebody has set it otherwise."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves workers on a shared machine


@contextmanager
def agent_on_a_free_port(library: Any) -> Iterator[None]:
    """Ray's agent, which starts jobs, has one port for all clusters of a machine; ray.init has no way to name one."""
    parameters = library._private.parameter.RayParams
    usual = parameters.__init__
    parameters.__init__ = functools.partialmethod(usual, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameters.__init__ = usual
