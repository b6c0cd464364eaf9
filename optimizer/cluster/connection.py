"""Connect this process to a Ray cluster, or start one on this machine."""

import contextlib
import os
import sys
from collections.abc import Iterator

from optimizer.cluster.joining import join_ray
from optimizer.cluster.room import LOOKOUT, cluster_capacity
from optimizer.spec import Workers


@contextlib.contextmanager
def cluster(address: str | None, workers: Workers) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or start a local one for as long as the block lasts.

    Raises `InputError` where the address cannot be reached.
    """
    import ray

    cores = max(os.cpu_count() or 1, int(workers.count * workers.cpus + 0.999))
    join_ray(address, include_dashboard=False, num_cpus=cores)
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
