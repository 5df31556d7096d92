"""This tool's rules for a run that survives failures and reaches its data: they refuse what would fail, hang or cost
money hours later."""

from __future__ import annotations

import json
from collections.abc import Iterator

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.kubernetes_section import DEFAULT_GPU_RESOURCE
from medfuncta_dist.config.stage_names import COMPUTING
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.scans.private.private_folder import SALT_VARIABLE
from medfuncta_dist.submit.manifest.container_image import parse_ray_version
from medfuncta_dist.submit.manifest.quantity import parse_quantity
from medfuncta_dist.submit.rules.job_run_file import find_run_file, list_stages, require_run_file
from medfuncta_dist.submit.rules.manifest_view import Part, RayJob, as_int, as_mapping, as_mappings, read_variable
from medfuncta_dist.submit.rules.rule import Breaches, RuleBook

RULES = RuleBook()
DRAIN_VARIABLE = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
MIN_GRACE_S = 120
"""Seconds; Kubernetes' default of 30 ends a pod before Ray has drained it."""
MAX_MANIFEST_BYTES = 2**20
"""Bytes. etcd accepts 1.5 MiB, and the operator adds a status and copies."""
SPOT_TAINTS = ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority")
"""Taints of spot nodes."""
SALT_REMEDY = (
    "run `kubectl create secret generic medfuncta-salt --from-literal=MEDFUNCTA_SALT=$(openssl rand -hex 32)`, "
    "keep a copy, and set kubernetes.salt_secret"
)


@RULES.rule("http-mode", "set submissionMode to HTTPMode")
def _check_http(job: RayJob) -> Breaches:
    if job.submission_mode in ("K8sJobMode", "SidecarMode"):
        yield (
            "spec.submissionMode",
            f"{job.submission_mode} ends a job when its log stream closes, which long runs do not survive",
        )


@RULES.rule("cluster-removed", "set shutdownAfterJobFinishes to true")
def _check_removed(job: RayJob) -> Breaches:
    if job.cluster and not job.removes_cluster:
        yield "spec.shutdownAfterJobFinishes", "the cluster would stay, and cost, after the job"


@RULES.rule("no-deadline", "leave activeDeadlineSeconds out")
def _check_deadline(job: RayJob) -> Breaches:
    if job.spec.get("activeDeadlineSeconds") is not None:
        yield (
            "spec.activeDeadlineSeconds",
            "the time for which a preempted job waits also counts, and would end the run",
        )


@RULES.rule("image-ray-version", "use an image whose Ray is kubernetes.ray_version (by default the installed one)")
def _check_image(job: RayJob) -> Breaches:
    for where, container in job.ray_containers():
        named = parse_ray_version(str(container.get("image", "")))
        if named is not None and named != job.ray_version:
            yield f"{where}.image", f"the tag names Ray {named}, but rayVersion is {job.ray_version or 'missing'}"


@RULES.rule("one-image", "set kubernetes.image alone: nodes of one cluster need the same Ray and Python")
def _check_one_image(job: RayJob) -> Breaches:
    images = sorted({str(container.get("image") or "") for _, container in job.ray_containers()})
    if "" in images:
        yield "spec.rayClusterSpec", "a container has no image"
    elif len(images) > 1:
        yield "spec.rayClusterSpec", f"the groups have different images: {', '.join(images)}"


@RULES.rule("head-without-tasks", 'set num-cpus: "0" in the head\'s rayStartParams')
def _check_head(job: RayJob) -> Breaches:
    if job.head and as_mapping(job.head.get("rayStartParams")).get("num-cpus") != "0":
        yield (
            "spec.rayClusterSpec.headGroupSpec.rayStartParams",
            "a task that runs on the head can crash it, and so the whole job",
        )


@RULES.rule("head-on-stable-nodes", "leave the toleration out of the head's group")
def _check_stable(job: RayJob) -> Breaches:
    pod = as_mapping(as_mapping(job.head.get("template")).get("spec"))
    for toleration in as_mappings(pod.get("tolerations")):
        if toleration.get("key") in (None, *SPOT_TAINTS) and toleration.get("operator", "Equal") in ("Exists", "Equal"):
            yield (
                "spec.rayClusterSpec.headGroupSpec",
                "the head may run on a spot node, and the job ends when that node is reclaimed",
            )


@RULES.rule(
    "drain-within-grace",
    f"set terminationGracePeriodSeconds to {MIN_GRACE_S} or more and {DRAIN_VARIABLE} below it, as k8s/base does",
)
def _check_grace(job: RayJob) -> Breaches:
    for where, pod in job.pods():
        grace = as_int(pod.get("terminationGracePeriodSeconds")) or 30
        drain = next((read_variable(c, DRAIN_VARIABLE) for c in as_mappings(pod.get("containers"))[:1]), None)
        if grace < MIN_GRACE_S:
            yield where, f"a grace of {grace} s is too short for a checkpoint and Ray's drain"
        if not (drain or "").isdigit() or int(drain or 0) >= grace:
            yield where, f"Ray drains for {drain or 'an unknown number of'} s, but the pod has {grace} s to stop"


@RULES.rule("memory-and-shm", "set kubernetes.*.memory_gigabytes well above kubernetes.shm_gigabytes")
def _check_memory(job: RayJob) -> Breaches:
    for where, pod in job.pods():
        shared = [v for v in as_mappings(pod.get("volumes")) if as_mapping(v.get("emptyDir")).get("medium") == "Memory"]
        for container in as_mappings(pod.get("containers"))[:1]:
            limit = parse_quantity(as_mapping(as_mapping(container.get("resources")).get("limits")).get("memory"))
            size = sum(parse_quantity(as_mapping(v.get("emptyDir")).get("sizeLimit")) or 0 for v in shared)
            mounted = {
                m.get("name") for m in as_mappings(container.get("volumeMounts")) if m.get("mountPath") == "/dev/shm"
            }
            if limit is None:
                yield where, "there is no memory limit: Ray would count the whole node's memory"
            elif not mounted & {v.get("name") for v in shared} or not size:
                yield where, "/dev/shm is not a memory volume with a size limit: Ray's objects would go to disk"
            elif size > 0.8 * limit:
                yield where, "shared memory would leave less than a fifth of the pod's memory for its processes"


@RULES.rule("whole-gpus", "set kubernetes.gpu.workers so that a pod's GPUs are a whole number")
def _check_gpus(job: RayJob) -> Breaches:
    name = _gpu_resource(job)
    for where, container in job.ray_containers():
        resources = as_mapping(container.get("resources"))
        wanted, given = (as_mapping(resources.get(key)).get(name) for key in ("requests", "limits"))
        if wanted != given or (given is not None and not str(given).isdigit()):
            yield f"{where}.resources", f"{name} must be a whole number, equal in requests and limits"


@RULES.rule("no-idle-gpus", "submit the stages one by one, without --together")
def _check_idle(job: RayJob) -> Breaches:
    stages = list_stages(job)
    for where, container in job.ray_containers():
        limits = as_mapping(as_mapping(container.get("resources")).get("limits"))
        if _gpu_resource(job) in limits and not set(stages) & set(COMPUTING):
            yield where, f"{' and '.join(stages)} would hold GPUs without using them"


@RULES.rule("salt", SALT_REMEDY)
def _check_salt(job: RayJob) -> Breaches:
    if "pack" in list_stages(job) and job.head_variable(SALT_VARIABLE) is None:
        yield (
            "spec.rayClusterSpec.headGroupSpec",
            "the job packs without a salt: after a restart, the same scans would get other keys",
        )


@RULES.rule("run-file", "submit with medfuncta-dist, which adds the run file")
def _check_run_file(job: RayJob) -> Breaches:
    if not job.spec.get("entrypoint"):
        yield "spec.entrypoint", "the job has no command"
    try:
        require_run_file(job)
    except RunFileError as error:
        yield "spec.runtimeEnvYAML", error.what


@RULES.rule("reachable-data", "use s3:// URIs, or mount the folder's volume with kubernetes.claims")
def _check_reachable(job: RayJob) -> Breaches:
    run = find_run_file(job)
    for where, uri in _iterate_data_uris(run, job) if run is not None else ():
        for group, container in job.ray_containers():
            if "://" not in uri and not _is_mounted(uri, container):
                yield f"{where}, {group}", f"the folder {uri} is not on a volume that the pods share"
                break


@RULES.rule("manifest-size", "in the run file, name folders or patterns instead of single files")
def _check_size(job: RayJob) -> Breaches:
    size = len(json.dumps(job.manifest, default=str))
    if size > MAX_MANIFEST_BYTES:
        yield "the whole manifest", f"{size} bytes; the cluster can store {MAX_MANIFEST_BYTES}"


def _gpu_resource(job: RayJob) -> str:
    run = find_run_file(job)
    return run.kubernetes.gpu_resource if run is not None else DEFAULT_GPU_RESOURCE


def _iterate_data_uris(run: RunFile, job: RayJob) -> Iterator[tuple[str, str]]:
    """(key of the run file, URI) of the data that this job reads and writes outside its pods."""
    yield "storage", run.storage.removeprefix("file://")
    if "pack" in list_stages(job):
        sources = [*(run.data.splits or {}).values(), run.data.source or []]
        for source in sources:
            for uri in [source] if isinstance(source, str) else source:
                yield "data.source", uri.removeprefix("file://")


def _is_mounted(path: str, container: Part) -> bool:
    """Whether the path is inside a mounted claim."""
    mounts = [m for m in as_mappings(container.get("volumeMounts")) if str(m.get("name", "")).startswith("claim-")]
    return any(f"{path}/".startswith(f"{str(m.get('mountPath')).rstrip('/')}/") for m in mounts)
