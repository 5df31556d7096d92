"""How many pods a job's stages need, and how large: from ``cluster`` and ``kubernetes`` of the run file. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medfuncta_dist.config.kubernetes import Nodes, WorkerPods
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError

COMPUTE_STAGES = ("train", "fit")
"""Stages that run on GPUs where the run file gives workers any; the others read, write and count."""
SHM_FRACTION = 0.4
"""Of a pod's memory: Ray's object store takes 0.3, NCCL and torch's loaders the rest."""


@dataclass(frozen=True)
class PodGroup:
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


def make_head_group(run: RunFile) -> PodGroup:
    """The head's pod."""
    pod = run.kubernetes.head
    return PodGroup("head", pod, 1, 1, 0, pod.cpus, 0, pod.memory_gigabytes, SHM_FRACTION * pod.memory_gigabytes)


def choose_window(run: RunFile, groups: Sequence[PodGroup]) -> int | None:
    """Tasks in flight for as many pods as ``kubernetes`` asks for; None where ``cluster`` alone decides."""
    given = {"cpu": run.kubernetes.cpu.pods, "gpu": run.kubernetes.gpu.pods}
    if run.cluster.window is not None or not any(given[group.name] for group in groups):
        return run.cluster.window
    return 2 * max(group.most * group.workers for group in groups)  # twice, as by default


def make_worker_groups(run: RunFile, stages: Sequence[str]) -> list[PodGroup]:
    """The groups that these stages need: ``cpu``, ``gpu``, or both where stages of either kind share a cluster."""
    return [_make_worker_group(run, kind) for kind in list_group_kinds(run, stages)]


def list_group_kinds(run: RunFile, stages: Sequence[str]) -> list[str]:
    """Names of these groups."""
    found = {"gpu" if stage in COMPUTE_STAGES and run.cluster.gpus_per_worker else "cpu" for stage in stages}
    return sorted(found)


def count_max_workers(run: RunFile, kind: str) -> int:
    """For how many workers a job's pods of a kind have room, at most: its pods are whole ones, and may be given."""
    return _count_pods(run, kind)[1] * _select_pods(run, kind).workers


def _select_pods(run: RunFile, kind: str) -> WorkerPods:
    return run.kubernetes.gpu if kind == "gpu" else run.kubernetes.cpu


def _count_pods(run: RunFile, kind: str) -> tuple[int, int]:
    """(fewest, most) pods."""
    pods, cluster = _select_pods(run, kind), run.cluster
    if pods.pods is not None:
        return pods.pods, pods.pods
    return math.ceil(cluster.fewest_workers / pods.workers), math.ceil(cluster.most_workers / pods.workers)


def _make_worker_group(run: RunFile, kind: str) -> PodGroup:
    pods = _select_pods(run, kind)
    fewest, most = _count_pods(run, kind)
    return PodGroup(
        name=kind,
        nodes=pods,
        fewest=fewest,
        most=most,
        workers=pods.workers,
        cpus=pods.workers * run.cluster.cpus_per_worker,
        gpus=_require_whole_gpus(pods.workers * run.cluster.gpus_per_worker) if kind == "gpu" else 0,
        memory=pods.memory_gigabytes,
        shared=run.kubernetes.shm_gigabytes or SHM_FRACTION * pods.memory_gigabytes,
    )


def _require_whole_gpus(gpus: float) -> int:
    if not float(gpus).is_integer():
        raise RunFileError(
            f"a pod would get {gpus:g} GPUs, but Kubernetes gives out whole ones",
            where="kubernetes.gpu.workers, cluster.gpus_per_worker",
            do="set kubernetes.gpu.workers so that workers x cluster.gpus_per_worker is a whole number",
        )
    return int(gpus)
