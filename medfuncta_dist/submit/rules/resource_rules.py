"""This tool's rules for what a pod takes of its node: memory that holds the scans, and a limit for all that it writes
to disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.manifest.quantity import parse_quantity
from medfuncta_dist.submit.manifest.worker_groups import list_group_kinds
from medfuncta_dist.submit.manifest.worker_memory import most_demanding
from medfuncta_dist.submit.rules.job_run_file import find_run_file, list_stages
from medfuncta_dist.submit.rules.manifest_view import Part, RayJob, as_mapping, as_mappings
from medfuncta_dist.submit.rules.rule import Breaches, RuleBook

RULES = RuleBook()
DISK = "ephemeral-storage"


@RULES.rule("volume-limits", "set sizeLimit for each emptyDir of your overlay")
def _check_volume_limits(job: RayJob) -> Breaches:
    for where, pod in job.pods():
        for volume in as_mappings(pod.get("volumes")):
            if isinstance(volume.get("emptyDir"), dict) and not parse_quantity(volume["emptyDir"].get("sizeLimit")):
                what = "has no sizeLimit: it could fill the node's disk, and with it end other pods"
                yield f"{where}.volumes[{volume.get('name')}]", what


@RULES.rule("disk-limit", "raise the limit of ephemeral-storage in your overlay, or leave it out there")
def _check_disk(job: RayJob) -> Breaches:
    for where, pod in job.pods():
        allowed, volumes = _sum_disk_limits(pod), sum(_disk_volumes(pod))
        if allowed is not None and volumes > allowed:
            limit = f"{_gib(allowed)} of {DISK} in all containers"
            yield where, f"its volumes may grow to {_gib(volumes)}, but the pod is evicted beyond {limit}"


@RULES.rule("mount-paths", "choose other paths for kubernetes.claims, kubernetes.spill_path or cluster.cache")
def _check_mounts(job: RayJob) -> Breaches:
    for where, container in job.ray_containers():
        paths = [str(mount.get("mountPath")) for mount in as_mappings(container.get("volumeMounts"))]
        for path in sorted({path for path in paths if paths.count(path) > 1}):
            yield f"{where}.volumeMounts", f"several volumes are mounted at {path}"


@RULES.rule(
    "worker-memory",
    "raise memory_gigabytes of kubernetes.cpu or kubernetes.gpu, or lower its workers per pod, "
    "kubernetes.shm_gigabytes, train.batch or fit.batch",
)
def _check_worker_memory(job: RayJob) -> Breaches:
    run = find_run_file(job)
    for where, group in job.all_groups() if run is not None else ():
        assert run is not None
        kind, pod = str(group.get("groupName")), as_mapping(as_mapping(group.get("template")).get("spec"))
        stages = [stage for stage in list_stages(job) if kind in list_group_kinds(run, [stage])]
        memory, shared = _ray_memory(pod), sum(_memory_volumes(pod))
        if not stages or memory is None:
            continue
        workers = (run.kubernetes.gpu if kind == "gpu" else run.kubernetes.cpu).workers
        stage, bytes_each = most_demanding(run, stages)
        if workers * bytes_each > memory - shared:
            least = f"{workers} worker{'s' * (workers > 1)} of {stage} need at least {_gib(workers * bytes_each)}"
            given = f"the pod has {_gib(memory)}, {_gib(shared)} of it shared memory"
            what = "scans" if run.data.patches is None else "patches"
            yield f"{where}.template.spec", f"{least} for {what} of shape {list(run.data.shape)}, but {given}"


def warn_of_unknown_scans(run: RunFile, stages: Sequence[str]) -> list[str]:
    """A line where workers hold whole scans of a size that the run file does not tell: no rule can check their
    memory."""
    if run.data.patches is None or "pack" not in stages:
        return []
    given = f"{run.kubernetes.cpu.workers} workers of a pod share {run.kubernetes.cpu.memory_gigabytes:g} GiB"
    what = f"a pack worker holds a whole scan, whose size the run file does not tell, and {given}"
    return [f"warning: {what}; see that it is enough for the largest scans (docs/how-to/native-resolution.md, Memory)"]


def _ray_memory(pod: Part) -> float | None:
    """The memory limit of Ray's container."""
    for container in as_mappings(pod.get("containers"))[:1]:
        return parse_quantity(_limits(container).get("memory"))
    return None


def _limits(container: Part) -> Part:
    return as_mapping(as_mapping(container.get("resources")).get("limits"))


def _sum_disk_limits(pod: Part) -> float | None:
    """What all containers of a pod may write; None if none has a limit."""
    given = [parse_quantity(_limits(container).get(DISK)) for container in as_mappings(pod.get("containers"))]
    known = [limit for limit in given if limit is not None]
    return sum(known) if known else None


def _disk_volumes(pod: Part) -> Iterator[float]:
    for empty in _empty_dirs(pod):
        if empty.get("medium") != "Memory":
            yield parse_quantity(empty.get("sizeLimit")) or 0.0


def _memory_volumes(pod: Part) -> Iterator[float]:
    for empty in _empty_dirs(pod):
        if empty.get("medium") == "Memory":
            yield parse_quantity(empty.get("sizeLimit")) or 0.0


def _empty_dirs(pod: Part) -> list[Any]:
    return [as_mapping(v["emptyDir"]) for v in as_mappings(pod.get("volumes")) if "emptyDir" in v]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
