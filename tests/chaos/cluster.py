"""A Ray cluster of several nodes on this machine, whose nodes go as real ones do. One per process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

OBJECT_STORE_BYTES = 80_000_000


class Nodes:
    """The nodes besides the head, which has no CPUs: the driver runs there, workers do not."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    def add(self, cpus: int) -> Any:
        """A new node."""
        return self._cluster.add_node(num_cpus=cpus, object_store_memory=OBJECT_STORE_BYTES)

    def lose(self, node: Any) -> None:
        """Without a warning: all its processes are killed."""
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: float) -> float:
        """A cloud's notice: the node goes in so many seconds, and then it does. Returns when (s since 1970)."""
        import ray
        from ray.core.generated import autoscaler_pb2

        gone = time.time() + seconds
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client = ray._raylet.GcsClient(address=self._cluster.address)
        accepted, why = client.drain_node(node.node_id, reason, "spot capacity is needed", int(gone * 1000))
        assert accepted, why
        timer = threading.Timer(seconds, self.lose, (node,))
        timer.daemon = True
        timer.start()
        return gone


@contextmanager
def nodes_of(*cpus: int) -> Iterator[tuple[Nodes, list[Any]]]:
    """A cluster with a head and nodes of so many CPUs, reached through RAY_ADDRESS; its end is the end of all of it."""
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = Nodes(cluster)
    try:
        started = [nodes.add(count) for count in cpus]
        cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = cluster.address
        yield nodes, started
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()
        cluster.shutdown()
