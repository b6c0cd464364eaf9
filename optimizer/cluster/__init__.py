"""Workers as Ray actors: the only place that knows Ray."""

from optimizer.cluster.connection import cluster, describe_cluster
from optimizer.cluster.pool import Patience, RayPool
from optimizer.cluster.room import Capacity, Room, cluster_capacity

__all__ = ["Capacity", "Patience", "RayPool", "Room", "cluster", "cluster_capacity", "describe_cluster"]
