"""Start a Ray cluster on this machine, or join one that is there."""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from typing import Any

from optimizer import logs
from optimizer.errors import InputError

_TRIES = "RAY_gcs_server_port_wait_time_s"


def join_ray(address: str | None, **local: Any) -> Any:
    """What `ray.init` returns, for the cluster at `address`, or for a local one that is started with `local`.

    Raises `InputError` where it cannot be reached or started.
    """
    _prepare_environment()
    import ray

    library: Any = ray
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    # ray.init would put a handler of its own in place of ours, and what that raises can be lost inside Ray
    library._private.utils.set_sigterm_handler = lambda _handler: None
    try:
        if address is not None:
            logs.say(f"Connecting to Ray at {address}; where nothing answers, that takes about two minutes")
            with _few_tries():
                return library.init(address=address, **quiet)
        with _agent_on_a_free_port(library):
            return library.init(address="local", **quiet, **local)
    except (ConnectionError, ValueError, RuntimeError, library.exceptions.AuthenticationError) as error:
        raise InputError(
            f"Ray cannot be reached or started on {address or 'this machine'}: {error}. Check --address and Ray's "
            "token, or leave the address out for a local one."
        ) from error


def _prepare_environment() -> None:
    """Set what we want of Ray, for this process and the nodes it starts, unless somebody has set it otherwise."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves workers on a shared machine


@contextlib.contextmanager
def _few_tries() -> Iterator[None]:
    """Ray tries twenty times, 41 s each, to reach a head that is not there, and has only a variable to say otherwise.

    It counts for starting a local cluster, too, which needs its time.
    """
    if _TRIES in os.environ:
        yield
        return
    os.environ[_TRIES] = "3"
    try:
        yield
    finally:
        del os.environ[_TRIES]


@contextlib.contextmanager
def _agent_on_a_free_port(library: Any) -> Iterator[None]:
    """Ray's agent, which starts jobs, has one port for all clusters of a machine; ray.init has no way to name one."""
    parameters = library._private.parameter.RayParams
    usual = parameters.__init__
    parameters.__init__ = functools.partialmethod(usual, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameters.__init__ = usual
