"""Rules of KubeRay 1.7 that its CRD does not hold: the operator refuses such a RayJob after it was created, in an event
that few read. (ray-operator/controllers/ray/utils/validation.go)"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from medfuncta_dist.submit.manifest.job_names import MAX_NAME_LENGTH
from medfuncta_dist.submit.rules.manifest_view import RayJob, as_int, as_mapping, as_mappings
from medfuncta_dist.submit.rules.rule import RuleBook

RULES = RuleBook()
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")

Breaches = Iterator[tuple[str, str]]


@RULES.rule("kind", "give a RayJob of ray.io/v1")
def _kind(job: RayJob) -> Breaches:
    found = (job.manifest.get("apiVersion"), job.manifest.get("kind"))
    if found != ("ray.io/v1", "RayJob"):
        yield "apiVersion, kind", f"{found[0]} {found[1]} is not ray.io/v1 RayJob"


@RULES.rule("name-length", "shorten the run's name")
def _name_length(job: RayJob) -> Breaches:
    if len(job.name) > MAX_NAME_LENGTH:
        yield "metadata.name", f"{len(job.name)} characters; KubeRay allows {MAX_NAME_LENGTH}, for it appends its own"


@RULES.rule("name-dns-1035", "use lowercase letters, digits and dashes, beginning with a letter")
def _name_dns(job: RayJob) -> Breaches:
    if not DNS_1035.fullmatch(job.name):
        yield "metadata.name", f"{job.name!r} is no DNS-1035 label, and the cluster's services are named after it"


@RULES.rule("submission-mode", f"set one of {', '.join(SUBMISSION_MODES)}; HTTPMode for long runs")
def _mode(job: RayJob) -> Breaches:
    if job.mode not in SUBMISSION_MODES:
        yield "spec.submissionMode", f"there is no mode {job.mode!r}; the CRD takes any text, and nothing would run"


@RULES.rule("suspend-needs-shutdown", "set shutdownAfterJobFinishes to true")
def _suspend(job: RayJob) -> Breaches:
    if job.spec.get("suspend") and not job.shutdown:
        yield "spec.suspend", "a job that keeps its cluster can not be suspended"


@RULES.rule("ttl-not-negative", "set kubernetes.ttl_seconds to 0 or more")
def _ttl(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("ttlSecondsAfterFinished")) or 0) < 0:
        yield "spec.ttlSecondsAfterFinished", "a time below 0"


@RULES.rule("ttl-needs-shutdown", "set shutdownAfterJobFinishes to true, or the time to 0")
def _ttl_shutdown(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("ttlSecondsAfterFinished")) or 0) > 0 and not job.shutdown:
        yield "spec.ttlSecondsAfterFinished", "a time to keep a cluster that is never removed"


@RULES.rule("deletion-rules-exclude-shutdown", "leave out deletionStrategy: Kueue requires shutdownAfterJobFinishes")
def _deletion(job: RayJob) -> Breaches:
    if as_mapping(job.spec.get("deletionStrategy")).get("deletionRules") and job.shutdown:
        yield "spec.deletionStrategy.deletionRules", "given together with shutdownAfterJobFinishes"


@RULES.rule("deletion-strategy", "leave out deletionStrategy: shutdownAfterJobFinishes does what is needed")
def _deletion_strategy(job: RayJob) -> Breaches:
    strategy = job.spec.get("deletionStrategy")
    if strategy is None:
        return
    given = as_mapping(strategy)
    old = [name for name in ("onSuccess", "onFailure") if given.get(name) is not None]
    if bool(old) == bool(given.get("deletionRules")):
        yield "spec.deletionStrategy", "needs either deletionRules or onSuccess and onFailure"
    elif len(old) == 1:
        yield "spec.deletionStrategy", f"has {old[0]} alone; both ends need their policy"


@RULES.rule("backoff-not-negative", "set kubernetes.backoff_limit to 0 or more")
def _backoff(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("backoffLimit")) or 0) < 0:
        yield "spec.backoffLimit", "fewer retries than none"


@RULES.rule("backoff-needs-own-cluster", "set backoffLimit to 0, or leave out clusterSelector")
def _backoff_selector(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("backoffLimit")) or 0) > 0 and job.selected:
        yield "spec.backoffLimit", "each retry makes a new cluster, but clusterSelector names an existing one"


@RULES.rule("backoff-not-interactive", "set backoffLimit to 0, or submissionMode to HTTPMode")
def _backoff_interactive(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("backoffLimit")) or 0) > 0 and job.mode == "InteractiveMode":
        yield "spec.backoffLimit", "retries of a job that a person submits by hand"


@RULES.rule("cluster-given", "give rayClusterSpec")
def _cluster(job: RayJob) -> Breaches:
    if not job.cluster and not job.selected:
        yield "spec", "neither rayClusterSpec nor clusterSelector: the job has no cluster"


@RULES.rule("selector", "leave out clusterSelector: each job of this tool has a cluster of its own")
def _selector(job: RayJob) -> Breaches:
    if not job.selected:
        return
    if not as_mapping(job.spec.get("clusterSelector")).get("ray.io/cluster"):
        yield "spec.clusterSelector", "names no cluster (ray.io/cluster)"
    if job.spec.get("suspend"):
        yield "spec.clusterSelector", "a job on somebody's cluster can not be suspended"
    if job.mode == "SidecarMode":
        yield "spec.clusterSelector", "SidecarMode needs a cluster of the job's own"


@RULES.rule("sidecar", "set submissionMode to HTTPMode")
def _sidecar(job: RayJob) -> Breaches:
    if job.mode != "SidecarMode":
        return
    for key in ("submitterPodTemplate", "submitterConfig"):
        if job.spec.get(key) is not None:
            yield f"spec.{key}", "SidecarMode has no submitter pod"
    policy = as_mapping(as_mapping(job.head.get("template")).get("spec")).get("restartPolicy")
    if policy not in (None, "", "Never"):
        yield "spec.rayClusterSpec.headGroupSpec", f"SidecarMode needs restartPolicy Never, not {policy}"


@RULES.rule("runtime-env", "give a mapping, as YAML text")
def _runtime_env(job: RayJob) -> Breaches:
    text = job.spec.get("runtimeEnvYAML")
    if text is None:
        return
    try:
        found = yaml.safe_load(str(text))
    except yaml.YAMLError:
        found = ""
    if found is not None and not isinstance(found, dict):
        yield "spec.runtimeEnvYAML", "the text is no YAML mapping"


@RULES.rule("deadlines", "leave deadlines out: a preempted run may take long")
def _deadlines(job: RayJob) -> Breaches:
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        value = as_int(job.spec.get(key))
        if value is not None and value <= 0:
            yield f"spec.{key}", f"{value} is no time"


@RULES.rule("managed-by", f"leave managedBy out, or set one of {', '.join(MANAGERS)}")
def _managed_by(job: RayJob) -> Breaches:
    if job.spec.get("managedBy") not in (None, *MANAGERS):
        yield "spec.managedBy", f"{job.spec['managedBy']!r} is nobody who runs RayJobs"


@RULES.rule("ray-container", "begin from k8s/base/rayjob.yaml")
def _containers(job: RayJob) -> Breaches:
    for where, pod in job.pods() if job.cluster else ():
        if not as_mappings(pod.get("containers")):
            yield f"{where}.containers", "no container for Ray"
