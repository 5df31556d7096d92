"""The volumes on a node's disk that a pod has, and the ephemeral storage that follows from them. Pure.

Kubernetes evicts a pod one of whose volumes grows beyond its limit, and one that uses more in all than its containers
may: volumes, logs, and what is written elsewhere in the containers.
"""

from __future__ import annotations

import math
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.manifest.quantity import format_gibibytes

CACHE_HEADROOM = 1.1
"""The volume's size relative to the cache's: a pod whose volume overflows is evicted, a new shard is downloaded before
an old one is deleted, and compiled code lies there, too (some ten MB)."""
SIDECAR_GIB = 0.25
"""The same of the container that repeats the driver's log: five files of 10 MiB by the kubelet's defaults."""


def cache_gib(run: RunFile) -> float:
    """The size of the cache's volume."""
    return math.ceil(CACHE_HEADROOM * run.cluster.cache_gigabytes)


def disk_volumes(run: RunFile) -> list[dict[str, Any]]:
    """Logs, spilled objects and the cache, each with its limit."""
    kubernetes = run.kubernetes
    return [
        _empty("ray-logs", kubernetes.logs_gigabytes),
        {"name": "cache", **_cache_source(run)},
        _empty("spill", kubernetes.spill_gigabytes),
    ]


def ephemeral_gib(run: RunFile, workers: int) -> float | None:
    """What Ray's container requests of its node's disk, volumes included; None where pods request none. The head, whose
    pod has 0 ``workers``, has a driver's temporary files.

    A cache on a volume of its own does not count.
    """
    kubernetes = run.kubernetes
    if not kubernetes.ephemeral_storage:
        return None
    cache = 0.0 if kubernetes.cache_storage_class else cache_gib(run)
    scratch = kubernetes.scratch_gigabytes * max(1, workers)
    return cache + kubernetes.logs_gigabytes + kubernetes.spill_gigabytes + scratch


def _empty(name: str, gib: float) -> dict[str, Any]:
    return {"name": name, "emptyDir": {"sizeLimit": format_gibibytes(gib)}}


def _cache_source(run: RunFile) -> dict[str, Any]:
    size, storage_class = format_gibibytes(cache_gib(run)), run.kubernetes.cache_storage_class
    if storage_class is None:
        return {"emptyDir": {"sizeLimit": size}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "resources": {"requests": {"storage": size}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
