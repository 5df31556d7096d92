"""The pods that a job's stages need, and their sizes, from ``cluster`` and ``kubernetes`` of the run file. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.kubernetes_section import Nodes, WorkerPods
from medfuncta_dist.config.stage_names import COMPUTING
from medfuncta_dist.errors import RunFileError

SHM_FRACTION = 0.4
"""Shared memory as a fraction of a pod's memory: 0.3 for Ray's object store, the rest for NCCL and torch's loaders."""


@dataclass(frozen=True)
class PodGroup:
    """Pods of equal size: a worker group, or ``head``. ``workers``, CPUs, GPUs and memory are those of one pod."""

    name: str
    nodes: Nodes
    min_pods: int
    max_pods: int
    workers: int
    cpus: float
    gpus: int
    memory_gib: float
    shm_gib: float
    priority_class: str | None = None


def make_head_group(run: RunFile) -> PodGroup:
    """The group of the head's pod."""
    pod, priority = run.kubernetes.head, run.kubernetes.head_priority_class or run.kubernetes.priority_class
    memory = pod.memory_gigabytes
    return PodGroup("head", pod, 1, 1, 0, pod.cpus, 0, memory, SHM_FRACTION * memory, priority)


def choose_window(run: RunFile, groups: Sequence[PodGroup]) -> int | None:
    """The number of tasks in flight for the pods of ``kubernetes``; None if ``cluster`` alone decides it."""
    fixed = {"cpu": run.kubernetes.cpu.pods, "gpu": run.kubernetes.gpu.pods}
    if run.cluster.window is not None or not any(fixed[group.name] for group in groups):
        return run.cluster.window
    return 2 * max(group.max_pods * group.workers for group in groups)  # two per worker, as by default


def make_worker_groups(run: RunFile, stages: Sequence[str]) -> list[PodGroup]:
    """The groups that these stages need: ``cpu``, ``gpu``, or both if stages of both kinds share a cluster."""
    return [_make_worker_group(run, kind, stages) for kind in list_group_kinds(run, stages)]


def list_group_kinds(run: RunFile, stages: Sequence[str]) -> list[str]:
    """The names of the groups that these stages need."""
    kinds = {"gpu" if stage in COMPUTING and _count_stage_gpus(run, stage) else "cpu" for stage in stages}
    return sorted(kinds)


def count_gpus_per_worker(run: RunFile, stages: Sequence[str]) -> float:
    """GPUs in a pod of the group ``gpu`` per worker: enough for a training worker, and for a task of each stage."""
    return max(_count_stage_gpus(run, stage) for stage in stages)


def _count_stage_gpus(run: RunFile, stage: str) -> float:
    needs = {
        "train": run.cluster.gpus_per_worker,
        "prior": run.cluster.gpus_per_worker,
        "fit": run.gpus_per_task,
        "evaluate": run.gpus_per_task,
    }
    return needs.get(stage, 0)


def count_max_workers(run: RunFile, kind: str) -> int:
    """The most workers that a job's pods of a kind can hold. Pods are whole, and their number may be fixed."""
    return _count_pods(run, kind)[1] * _select_pods(run, kind).workers


def _select_pods(run: RunFile, kind: str) -> WorkerPods:
    return run.kubernetes.gpu if kind == "gpu" else run.kubernetes.cpu


def _count_pods(run: RunFile, kind: str) -> tuple[int, int]:
    """The least and the most pods."""
    pods, cluster = _select_pods(run, kind), run.cluster
    if pods.pods is not None:
        return pods.pods, pods.pods
    return math.ceil(cluster.fewest_workers / pods.workers), math.ceil(cluster.most_workers / pods.workers)


def _make_worker_group(run: RunFile, kind: str, stages: Sequence[str]) -> PodGroup:
    pods = _select_pods(run, kind)
    min_pods, max_pods = _count_pods(run, kind)
    return PodGroup(
        name=kind,
        nodes=pods,
        min_pods=min_pods,
        max_pods=max_pods,
        workers=pods.workers,
        cpus=pods.workers * run.cluster.cpus_per_worker,
        gpus=_require_whole_gpus(pods.workers * count_gpus_per_worker(run, stages)) if kind == "gpu" else 0,
        memory_gib=pods.memory_gigabytes,
        shm_gib=run.kubernetes.shm_gigabytes or SHM_FRACTION * pods.memory_gigabytes,
        priority_class=run.kubernetes.priority_class,
    )


def _require_whole_gpus(gpus: float) -> int:
    if not float(gpus).is_integer():
        raise RunFileError(
            f"a pod would get {gpus:g} GPUs, but Kubernetes assigns whole GPUs only",
            where="kubernetes.gpu.workers, fit.gpus_per_task",
            do="set kubernetes.gpu.workers so that workers x fit.gpus_per_task is a whole number",
        )
    return int(gpus)
