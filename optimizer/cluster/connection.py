"""Connect this process to a Ray cluster, or start one on this machine."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from optimizer.cluster.environment import agent_on_a_free_port, prepare_environment
from optimizer.cluster.room import LOOKOUT, cluster_capacity
from optimizer.errors import InputError
from optimizer.spec import Workers


@contextlib.contextmanager
def cluster(address: str | None, workers: Workers) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or start a local one for as long as the block lasts.

    Raises `InputError` where the address cannot be reached.
    """
    prepare_environment()
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        # ray.init would put a handler of its own in place of ours, and what that raises can be lost inside Ray
        ray._private.utils.set_sigterm_handler = lambda _handler: None
        if address is None:
            cores = max(os.cpu_count() or 1, int(workers.count * workers.cpus + 0.999))
            with agent_on_a_free_port(ray):
                ray.init(address="local", include_dashboard=False, num_cpus=cores, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.AuthenticationError) as error:
        where = address or "this machine"
        raise InputError(
            f"Ray cannot be reached or started on {where}: {error}. Check --address and Ray's token, or leave the "
            "address out for a local one."
        ) from error
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints what happens to its workers; ours is for results
            yield
    finally:
        LOOKOUT.join(5.0)
        LOOKOUT.forget()
        ray.shutdown()


def describe_cluster(address: str | None) -> str:
    """What the cluster offers, in words. Raises `InputError` where it cannot be reached or started."""
    with cluster(address, Workers()):
        capacity = cluster_capacity()
    where = address or "a local cluster"
    return f"{where}: {len(capacity.nodes)} node(s), {capacity.cpus:g} CPUs, {capacity.gpus:g} GPUs"
