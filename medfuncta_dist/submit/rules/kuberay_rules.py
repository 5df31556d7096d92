"""Rules of KubeRay 1.7 that its CRD does not contain.

The operator refuses a RayJob that breaks one only after it was created, in an event that is easily missed
(ray-operator/controllers/ray/utils/validation.go).
"""

from __future__ import annotations

import re

import yaml

from medfuncta_dist.submit.manifest.job_names import MAX_NAME_LENGTH
from medfuncta_dist.submit.rules.manifest_view import RayJob, as_int, as_mapping, as_mappings
from medfuncta_dist.submit.rules.rule import Breaches, RuleBook

RULES = RuleBook()
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


@RULES.rule("kind", "use a RayJob of ray.io/v1")
def _check_kind(job: RayJob) -> Breaches:
    found = (job.manifest.get("apiVersion"), job.manifest.get("kind"))
    if found != ("ray.io/v1", "RayJob"):
        yield "apiVersion, kind", f"{found[0]} {found[1]} is not ray.io/v1 RayJob"


@RULES.rule("name-length", "shorten the run's name")
def _check_name_length(job: RayJob) -> Breaches:
    if len(job.name) > MAX_NAME_LENGTH:
        yield (
            "metadata.name",
            f"has {len(job.name)} characters; KubeRay, which appends some, allows {MAX_NAME_LENGTH}",
        )


@RULES.rule("name-dns-1035", "use lowercase letters, digits and dashes, beginning with a letter")
def _check_name_dns(job: RayJob) -> Breaches:
    if not DNS_1035.fullmatch(job.name):
        yield "metadata.name", f"{job.name!r} is not a DNS-1035 label, but the cluster's services are named after it"


@RULES.rule("submission-mode", f"set one of {', '.join(SUBMISSION_MODES)}; HTTPMode for long runs")
def _check_mode(job: RayJob) -> Breaches:
    if job.submission_mode not in SUBMISSION_MODES:
        yield (
            "spec.submissionMode",
            f"there is no mode {job.submission_mode!r}; the CRD accepts any text, but nothing would run",
        )


@RULES.rule("suspend-needs-shutdown", "set shutdownAfterJobFinishes to true")
def _check_suspend(job: RayJob) -> Breaches:
    if job.spec.get("suspend") and not job.removes_cluster:
        yield "spec.suspend", "a job that keeps its cluster cannot be suspended"


@RULES.rule("ttl-not-negative", "set kubernetes.ttl_seconds to 0 or more")
def _check_ttl(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("ttlSecondsAfterFinished")) or 0) < 0:
        yield "spec.ttlSecondsAfterFinished", "is below 0"


@RULES.rule("ttl-needs-shutdown", "set shutdownAfterJobFinishes to true, or the time to 0")
def _check_ttl_shutdown(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("ttlSecondsAfterFinished")) or 0) > 0 and not job.removes_cluster:
        yield "spec.ttlSecondsAfterFinished", "has no effect on a cluster that is never removed"


@RULES.rule("deletion-rules-exclude-shutdown", "leave out deletionStrategy: Kueue requires shutdownAfterJobFinishes")
def _check_deletion(job: RayJob) -> Breaches:
    if as_mapping(job.spec.get("deletionStrategy")).get("deletionRules") and job.removes_cluster:
        yield "spec.deletionStrategy.deletionRules", "cannot be combined with shutdownAfterJobFinishes"


@RULES.rule("deletion-strategy", "leave out deletionStrategy: shutdownAfterJobFinishes does what is needed")
def _check_deletion_strategy(job: RayJob) -> Breaches:
    strategy = job.spec.get("deletionStrategy")
    if strategy is None:
        return
    given = as_mapping(strategy)
    outcomes = [name for name in ("onSuccess", "onFailure") if given.get(name) is not None]
    if bool(outcomes) == bool(given.get("deletionRules")):
        yield "spec.deletionStrategy", "needs either deletionRules, or both onSuccess and onFailure"
    elif len(outcomes) == 1:
        yield "spec.deletionStrategy", f"has only {outcomes[0]}; both outcomes need a policy"


@RULES.rule("backoff-not-negative", "set kubernetes.backoff_limit to 0 or more")
def _check_backoff(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("backoffLimit")) or 0) < 0:
        yield "spec.backoffLimit", "is below 0"


@RULES.rule("backoff-needs-own-cluster", "set backoffLimit to 0, or leave out clusterSelector")
def _check_backoff_selector(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("backoffLimit")) or 0) > 0 and job.uses_existing_cluster:
        yield "spec.backoffLimit", "each retry creates a new cluster, but clusterSelector names an existing one"


@RULES.rule("backoff-not-interactive", "set backoffLimit to 0, or submissionMode to HTTPMode")
def _check_backoff_interactive(job: RayJob) -> Breaches:
    if (as_int(job.spec.get("backoffLimit")) or 0) > 0 and job.submission_mode == "InteractiveMode":
        yield "spec.backoffLimit", "a job that a user submits by hand cannot be retried"


@RULES.rule("cluster-given", "set rayClusterSpec")
def _check_cluster(job: RayJob) -> Breaches:
    if not job.cluster and not job.uses_existing_cluster:
        yield "spec", "neither rayClusterSpec nor clusterSelector: the job has no cluster"


@RULES.rule("selector", "leave out clusterSelector: each job of this tool has its own cluster")
def _check_selector(job: RayJob) -> Breaches:
    if not job.uses_existing_cluster:
        return
    if not as_mapping(job.spec.get("clusterSelector")).get("ray.io/cluster"):
        yield "spec.clusterSelector", "names no cluster (ray.io/cluster)"
    if job.spec.get("suspend"):
        yield "spec.clusterSelector", "a job on an existing cluster cannot be suspended"
    if job.submission_mode == "SidecarMode":
        yield "spec.clusterSelector", "SidecarMode needs the job's own cluster"


@RULES.rule("sidecar", "set submissionMode to HTTPMode")
def _check_sidecar(job: RayJob) -> Breaches:
    if job.submission_mode != "SidecarMode":
        return
    for key in ("submitterPodTemplate", "submitterConfig"):
        if job.spec.get(key) is not None:
            yield f"spec.{key}", "SidecarMode has no submitter pod"
    policy = as_mapping(as_mapping(job.head.get("template")).get("spec")).get("restartPolicy")
    if policy not in (None, "", "Never"):
        yield "spec.rayClusterSpec.headGroupSpec", f"SidecarMode needs restartPolicy Never, not {policy}"


@RULES.rule("runtime-env", "write a mapping, as YAML text")
def _check_runtime_env(job: RayJob) -> Breaches:
    text = job.spec.get("runtimeEnvYAML")
    if text is None:
        return
    try:
        found = yaml.safe_load(str(text))
    except yaml.YAMLError:
        found = ""
    if found is not None and not isinstance(found, dict):
        yield "spec.runtimeEnvYAML", "the text is not a YAML mapping"


@RULES.rule("deadlines", "leave deadlines out: a preempted run may take long")
def _check_deadlines(job: RayJob) -> Breaches:
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        value = as_int(job.spec.get(key))
        if value is not None and value <= 0:
            yield f"spec.{key}", f"{value} is not a positive number of seconds"


@RULES.rule("managed-by", f"leave managedBy out, or set one of {', '.join(MANAGERS)}")
def _check_managed_by(job: RayJob) -> Breaches:
    if job.spec.get("managedBy") not in (None, *MANAGERS):
        yield "spec.managedBy", f"{job.spec['managedBy']!r} is not a controller of RayJobs"


@RULES.rule("ray-container", "start from k8s/base/rayjob.yaml")
def _check_containers(job: RayJob) -> Breaches:
    for where, pod in job.pods() if job.cluster else ():
        if not as_mappings(pod.get("containers")):
            yield f"{where}.containers", "there is no container for Ray"
