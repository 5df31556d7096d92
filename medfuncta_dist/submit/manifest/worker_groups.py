"""How many pods a job's stages need, and how large: from ``cluster`` and ``kubernetes`` of the run file. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.kubernetes_section import Nodes, WorkerPods
from medfuncta_dist.config.stage_names import COMPUTING
from medfuncta_dist.errors import RunFileError

SHARED_MEMORY = 0.4
"""Of a pod's memory: Ray's object store takes 0.3, NCCL and torch's loaders the rest."""


@dataclass(frozen=True)
class Group:
    """Equal pods. ``name`` is that of the worker group, or ``head``; ``workers`` and sizes are of one pod, memory in
    GiB."""

    name: str
    nodes: Nodes
    fewest: int
    most: int
    workers: int
    cpus: float
    gpus: int
    memory: float
    shared: float


def head(run: RunFile) -> Group:
    """The head's pod."""
    pod = run.kubernetes.head
    return Group("head", pod, 1, 1, 0, pod.cpus, 0, pod.memory_gigabytes, SHARED_MEMORY * pod.memory_gigabytes)


def window(run: RunFile, groups: Sequence[Group]) -> int | None:
    """Tasks in flight for as many pods as ``kubernetes`` asks for; None where ``cluster`` alone decides."""
    given = {"cpu": run.kubernetes.cpu.pods, "gpu": run.kubernetes.gpu.pods}
    if run.cluster.window is not None or not any(given[group.name] for group in groups):
        return run.cluster.window
    return 2 * max(group.most * group.workers for group in groups)  # twice, as by default


def worker_groups(run: RunFile, stages: Sequence[str]) -> list[Group]:
    """The groups that these stages need: ``cpu``, ``gpu``, or both where stages of either kind share a cluster."""
    return [_workers(run, kind) for kind in kinds(run, stages)]


def kinds(run: RunFile, stages: Sequence[str]) -> list[str]:
    """Names of these groups."""
    found = {"gpu" if stage in COMPUTING and run.cluster.gpus_per_worker else "cpu" for stage in stages}
    return sorted(found)


def most_workers(run: RunFile, kind: str) -> int:
    """For how many workers a job's pods of a kind have room, at most: its pods are whole ones, and may be given."""
    return _counts(run, kind)[1] * _pods(run, kind).workers


def _pods(run: RunFile, kind: str) -> WorkerPods:
    return run.kubernetes.gpu if kind == "gpu" else run.kubernetes.cpu


def _counts(run: RunFile, kind: str) -> tuple[int, int]:
    """(fewest, most) pods."""
    pods, cluster = _pods(run, kind), run.cluster
    if pods.pods is not None:
        return pods.pods, pods.pods
    return math.ceil(cluster.fewest_workers / pods.workers), math.ceil(cluster.most_workers / pods.workers)


def _workers(run: RunFile, kind: str) -> Group:
    pods = _pods(run, kind)
    fewest, most = _counts(run, kind)
    return Group(
        name=kind,
        nodes=pods,
        fewest=fewest,
        most=most,
        workers=pods.workers,
        cpus=pods.workers * run.cluster.cpus_per_worker,
        gpus=_whole_gpus(pods.workers * run.cluster.gpus_per_worker) if kind == "gpu" else 0,
        memory=pods.memory_gigabytes,
        shared=run.kubernetes.shm_gigabytes or SHARED_MEMORY * pods.memory_gigabytes,
    )


def _whole_gpus(gpus: float) -> int:
    if not float(gpus).is_integer():
        raise RunFileError(
            f"a pod would get {gpus:g} GPUs, but Kubernetes gives out whole ones",
            where="kubernetes.gpu.workers, cluster.gpus_per_worker",
            do="set kubernetes.gpu.workers so that workers x cluster.gpus_per_worker is a whole number",
        )
    return int(gpus)
