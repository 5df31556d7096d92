"""Rules of this tool for a run to survive and to reach its data: what would else fail, hang or cost after hours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import COMPUTING
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.private_folder import SALT_VARIABLE
from medfuncta_dist.submit.manifest.container_image import version_in_tag
from medfuncta_dist.submit.manifest.job_names import STAGE
from medfuncta_dist.submit.manifest.quantity import amount
from medfuncta_dist.submit.manifest.runtime_env import run_file_of
from medfuncta_dist.submit.rules.manifest_view import Part, RayJob, part, parts, variable, whole
from medfuncta_dist.submit.rules.rule import RuleBook

BOOK = RuleBook()
DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
LEAST_GRACE = 120
"""Seconds; Kubernetes' default of 30 ends a pod before Ray has drained it."""
LARGEST = 2**20
"""Bytes; etcd takes 1.5 MiB, and the operator writes a status and copies beside it."""
SPOT = ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority")
"""Taints of nodes that may be taken back."""
GPU = "nvidia.com/gpu"
SALT_REMEDY = (
    "kubectl create secret generic medfuncta-salt --from-literal=MEDFUNCTA_SALT=$(openssl rand -hex 32), keep a copy, "
    "and set kubernetes.salt_secret"
)

Breaches = Iterator[tuple[str, str]]


@BOOK.rule("http-mode", "set submissionMode to HTTPMode")
def _http(job: RayJob) -> Breaches:
    if job.mode in ("K8sJobMode", "SidecarMode"):
        yield "spec.submissionMode", f"{job.mode} ends a job when its log stream closes, which long runs do not survive"


@BOOK.rule("cluster-removed", "set shutdownAfterJobFinishes to true")
def _removed(job: RayJob) -> Breaches:
    if job.cluster and not job.shutdown:
        yield "spec.shutdownAfterJobFinishes", "the cluster would stay, and cost, after the job"


@BOOK.rule("no-deadline", "leave activeDeadlineSeconds out")
def _deadline(job: RayJob) -> Breaches:
    if job.spec.get("activeDeadlineSeconds") is not None:
        yield "spec.activeDeadlineSeconds", "time that the job waits while preempted counts, and would end the run"


@BOOK.rule("image-ray-version", "use an image whose Ray is kubernetes.ray_version (by default the installed one)")
def _image(job: RayJob) -> Breaches:
    for where, container in job.ray_containers():
        named = version_in_tag(str(container.get("image", "")))
        if named is not None and named != job.ray_version:
            yield f"{where}.image", f"the tag names Ray {named}, rayVersion is {job.ray_version or 'missing'}"


@BOOK.rule("one-image", "set kubernetes.image alone: nodes of one cluster need the same Ray and Python")
def _one_image(job: RayJob) -> Breaches:
    images = sorted({str(container.get("image") or "") for _, container in job.ray_containers()})
    if "" in images:
        yield "spec.rayClusterSpec", "a container has no image"
    elif len(images) > 1:
        yield "spec.rayClusterSpec", f"groups with different images: {', '.join(images)}"


@BOOK.rule("head-without-tasks", 'set num-cpus: "0" in the head\'s rayStartParams')
def _head(job: RayJob) -> Breaches:
    if job.head and part(job.head.get("rayStartParams")).get("num-cpus") != "0":
        yield (
            "spec.rayClusterSpec.headGroupSpec.rayStartParams",
            "tasks on the head can end it, and the whole job with it",
        )


@BOOK.rule("head-on-stable-nodes", "leave the toleration out of the head's group")
def _stable(job: RayJob) -> Breaches:
    pod = part(part(job.head.get("template")).get("spec"))
    for toleration in parts(pod.get("tolerations")):
        if toleration.get("key") in (None, *SPOT) and toleration.get("operator", "Equal") in ("Exists", "Equal"):
            yield "spec.rayClusterSpec.headGroupSpec", "the head may be put on a spot node, whose end is the job's"


@BOOK.rule("drain-within-grace", f"keep terminationGracePeriodSeconds {LEAST_GRACE} and {DRAIN} below it, as k8s/base")
def _grace(job: RayJob) -> Breaches:
    for where, pod in job.pods():
        grace = whole(pod.get("terminationGracePeriodSeconds")) or 30
        drain = next((variable(c, DRAIN) for c in parts(pod.get("containers"))[:1]), None)
        if grace < LEAST_GRACE:
            yield where, f"a grace of {grace} s is too short for a checkpoint and Ray's drain"
        if not (drain or "").isdigit() or int(drain or 0) >= grace:
            yield where, f"Ray drains for {drain or 'an unknown number of'} s, a pod has {grace} s to end"


@BOOK.rule("memory-and-shm", "set kubernetes.*.memory_gigabytes well above kubernetes.shm_gigabytes")
def _memory(job: RayJob) -> Breaches:
    for where, pod in job.pods():
        shared = [v for v in parts(pod.get("volumes")) if part(v.get("emptyDir")).get("medium") == "Memory"]
        for container in parts(pod.get("containers"))[:1]:
            limit = amount(part(part(container.get("resources")).get("limits")).get("memory"))
            size = sum(amount(part(v.get("emptyDir")).get("sizeLimit")) or 0 for v in shared)
            mounted = {m.get("name") for m in parts(container.get("volumeMounts")) if m.get("mountPath") == "/dev/shm"}
            if limit is None:
                yield where, "no memory limit: Ray would count the whole node's memory"
            elif not mounted & {v.get("name") for v in shared} or not size:
                yield where, "/dev/shm is no memory volume with a size, so Ray's objects would go to disk"
            elif size > 0.8 * limit:
                yield where, "shared memory counts as the pod's, and would leave its processes less than a fifth"


@BOOK.rule("whole-gpus", "set kubernetes.gpu.workers so that a pod's GPUs are a whole number")
def _gpus(job: RayJob) -> Breaches:
    for where, container in job.ray_containers():
        resources = part(container.get("resources"))
        wanted, given = (part(resources.get(key)).get(GPU) for key in ("requests", "limits"))
        if wanted != given or (given is not None and not str(given).isdigit()):
            yield f"{where}.resources", f"{GPU} must be a whole number, equal in requests and limits"


@BOOK.rule("no-idle-gpus", "submit the stages one by one, without --together")
def _idle(job: RayJob) -> Breaches:
    stages = str(job.labels.get(STAGE, "")).split(".")
    for where, container in job.ray_containers():
        if GPU in part(part(container.get("resources")).get("limits")) and not set(stages) & set(COMPUTING):
            yield where, f"{' and '.join(stages)} would hold GPUs and not use them"


@BOOK.rule("salt", SALT_REMEDY)
def _salt(job: RayJob) -> Breaches:
    packs = "pack" in str(job.labels.get(STAGE, "")).split(".")
    if packs and job.head_variable(SALT_VARIABLE) is None:
        yield "spec.rayClusterSpec.headGroupSpec", "the job packs without a salt: a restarted pod would make other keys"


@BOOK.rule("run-file", "submit with medfuncta-dist, which puts the run file in")
def _run_file(job: RayJob) -> Breaches:
    if not job.spec.get("entrypoint"):
        yield "spec.entrypoint", "the job has nothing to do"
    try:
        _carried(run_file_of(job.manifest))
    except RunFileError as error:
        yield "spec.runtimeEnvYAML", error.what


@BOOK.rule("reachable-data", "name s3:// places, or mount the folder's volume with kubernetes.claims")
def _reachable(job: RayJob) -> Breaches:
    try:
        run = _carried(run_file_of(job.manifest))
    except RunFileError:
        return
    for where, uri in _places(run, job):
        for group, container in job.ray_containers():
            if "://" not in uri and not _mounted(uri, container):
                yield f"{where}, {group}", f"{uri} is a folder that no pod has, or each has of its own"
                break


@BOOK.rule("manifest-size", "name folders or patterns in the run file, not single files")
def _size(job: RayJob) -> Breaches:
    size = len(json.dumps(job.manifest, default=str))
    if size > LARGEST:
        yield "the whole manifest", f"{size} bytes; the cluster's store takes little more than {LARGEST}"


@lru_cache(maxsize=4)
def _carried(text: str) -> RunFile:
    return parse(text)


def _places(run: RunFile, job: RayJob) -> Iterator[tuple[str, str]]:
    """(where, URI) of what this job reads and writes outside of its pods."""
    yield "storage", run.storage.removeprefix("file://")
    if "pack" in str(job.labels.get(STAGE, "")).split("."):
        sources = [*(run.data.splits or {}).values(), run.data.source or []]
        for source in sources:
            for uri in [source] if isinstance(source, str) else source:
                yield "data.source", uri.removeprefix("file://")


def _mounted(path: str, container: Part) -> bool:
    """Whether the path lies under a mounted claim."""
    mounts = [m for m in parts(container.get("volumeMounts")) if str(m.get("name", "")).startswith("claim-")]
    return any(f"{path}/".startswith(f"{str(m.get('mountPath')).rstrip('/')}/") for m in mounts)
