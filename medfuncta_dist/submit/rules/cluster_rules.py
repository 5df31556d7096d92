"""Rules of KubeRay 1.7 for the RayCluster inside a RayJob, which its CRD does not contain."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medfuncta_dist.submit.rules.manifest_view import RayJob, as_int, as_mapping, is_at_least, read_variable
from medfuncta_dist.submit.rules.rule import Breaches, RuleBook

RULES = RuleBook()
TOKENS_MIN_RAY = (2, 52, 0)
PRIORITY_MIN_RAY = (2, 56, 0)
GATED_FIELDS = ("networkPolicy", "tlsOptions", "historyServerOptions")
"""Fields that need a feature gate, disabled by default."""
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@RULES.rule("replicas-given", "set minReplicas and maxReplicas; for a fixed number of pods, both equal to replicas")
def _check_replicas_given(job: RayJob) -> Breaches:
    for where, group in _iterate_worker_groups(job):
        missing = [key for key in ("minReplicas", "maxReplicas") if as_int(group.get(key)) is None]
        if missing and not job.autoscaling:
            yield where, f"{' and '.join(missing)} missing; they are optional only with autoscaling"


@RULES.rule("replicas-range", "set cluster.workers to [least, most]")
def _check_replicas_range(job: RayJob) -> Breaches:
    for where, group in _iterate_worker_groups(job):
        fewest, number, most = (as_int(group.get(key)) for key in ("minReplicas", "replicas", "maxReplicas"))
        given = [n for n in (fewest, number, most) if n is not None]
        if any(n < 0 for n in given) or given != sorted(given):
            yield where, f"0 <= minReplicas <= replicas <= maxReplicas does not hold for {fewest}, {number}, {most}"


@RULES.rule("group-names", "give each worker group a different name")
def _check_group_names(job: RayJob) -> Breaches:
    names = [group.get("groupName") for group in job.worker_groups]
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        yield "spec.rayClusterSpec.workerGroupSpecs", f"several groups have the name {name!r}"


@RULES.rule("group-resources", "set a pod's size in its container's resources, and leave out `resources` of the group")
def _check_group_resources(job: RayJob) -> Breaches:
    for where, group in job.all_groups():
        started = as_mapping(group.get("rayStartParams"))
        twice = [key for key in ("num-cpus", "num-gpus", "memory", "resources") if started.get(key)]
        if twice and group.get("resources"):
            yield where, f"the group's resources are set twice: in rayStartParams ({', '.join(twice)}) and in resources"


@RULES.rule("group-labels", "use valid labels, in the group's `labels`")
def _check_group_labels(job: RayJob) -> Breaches:
    for where, group in job.all_groups():
        if "labels" in as_mapping(group.get("rayStartParams")):
            yield f"{where}.rayStartParams", "KubeRay does not accept labels here"
        for key, value in as_mapping(group.get("labels")).items():
            if not LABEL_KEY.fullmatch(str(key)) or not LABEL_VALUE.fullmatch(str(value)):
                yield f"{where}.labels", f"{key}={value} is not a valid label"


@RULES.rule("token-auth-version", "set kubernetes.ray_version to the image's Ray, 2.52 or later")
def _check_token_version(job: RayJob) -> Breaches:
    if job.auth_options.get("mode") == "token" and not is_at_least(job.ray_version, TOKENS_MIN_RAY):
        yield "spec.rayClusterSpec.authOptions", f"tokens need rayVersion >= 2.52.0, got {job.ray_version or 'none'}"


@RULES.rule("no-kubernetes-tokens", "leave enableK8sTokenAuth out: mode token alone works for RayJobs")
def _check_kubernetes_tokens(job: RayJob) -> Breaches:
    if job.auth_options.get("enableK8sTokenAuth"):
        yield "spec.rayClusterSpec.authOptions", "Kubernetes' own tokens are not supported in a RayJob"


@RULES.rule("feature-gates", "leave it out; the NetworkPolicies of k8s/base need no gate")
def _check_gates(job: RayJob) -> Breaches:
    for key in GATED_FIELDS:
        if job.cluster.get(key) is not None:
            yield f"spec.rayClusterSpec.{key}", "needs a feature gate that KubeRay 1.7 disables by default"


@RULES.rule("upgrade-strategy", "leave upgradeStrategy out")
def _check_upgrade(job: RayJob) -> Breaches:
    if as_mapping(job.cluster.get("upgradeStrategy")).get("type") is not None:
        yield "spec.rayClusterSpec.upgradeStrategy", "does not apply to the cluster of a RayJob"


@RULES.rule("fault-tolerant-gcs", "leave Redis out: the run's state is in storage, from where a new cluster resumes")
def _check_gcs(job: RayJob) -> Breaches:
    where = "spec.rayClusterSpec.headGroupSpec"
    started = as_mapping(job.head.get("rayStartParams"))
    options = job.cluster.get("gcsFaultToleranceOptions")
    if job.annotations.get("ray.io/ft-enabled") and options is not None:
        yield "metadata.annotations", "ray.io/ft-enabled and gcsFaultToleranceOptions cannot be combined"
    if options is None and not job.annotations.get("ray.io/ft-enabled"):
        if job.head_variable("RAY_REDIS_ADDRESS") is not None:
            yield where, "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
    elif any(job.head_variable(name) is not None for name in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD")):
        yield where, "the address or password of Redis is set outside gcsFaultToleranceOptions"
    if started.get("redis-username") or job.head_variable("REDIS_USERNAME") is not None:
        yield where, "the user name of Redis is set outside gcsFaultToleranceOptions"


@RULES.rule(
    "autoscaler-version", "set cluster.workers to a range and use no queue: submission then sets up the autoscaler"
)
def _check_autoscaler(job: RayJob) -> Breaches:
    asked = job.head_variable("RAY_enable_autoscaler_v2")
    if asked in ("1", "true") and not job.autoscaling:
        yield "spec.rayClusterSpec.headGroupSpec", "RAY_enable_autoscaler_v2 without enableInTreeAutoscaling"
    if asked is not None and as_mapping(job.cluster.get("autoscalerOptions")).get("version") is not None:
        yield "spec.rayClusterSpec.autoscalerOptions", "the autoscaler's version is set twice"


@RULES.rule("autoscaler-restart", "set restartPolicy to Never")
def _check_autoscaler_restart(job: RayJob) -> Breaches:
    for where, pod in job.pods() if job.autoscaler_v2 else ():
        if pod.get("restartPolicy") not in (None, "", "Never"):
            yield where, f"autoscaler v2 needs restartPolicy Never, not {pod['restartPolicy']}"


@RULES.rule("autoscaler-idle", "set 0 or more seconds, and only with autoscaler v2")
def _check_autoscaler_idle(job: RayJob) -> Breaches:
    options = as_mapping(job.cluster.get("autoscalerOptions"))
    if (as_int(options.get("idleTimeoutSeconds")) or 0) < 0:
        yield "spec.rayClusterSpec.autoscalerOptions", "idleTimeoutSeconds is below 0"
    for where, group in _iterate_worker_groups(job):
        idle = as_int(group.get("idleTimeoutSeconds"))
        if idle is not None and (idle < 0 or not job.autoscaler_v2):
            yield where, f"idleTimeoutSeconds {idle} without autoscaler v2, or below 0"


@RULES.rule("group-priority", "leave the group's priority out; kubernetes.priority sets the job's")
def _check_group_priority(job: RayJob) -> Breaches:
    for where, group in _iterate_worker_groups(job):
        if group.get("priority") and not (job.autoscaler_v2 and is_at_least(job.ray_version, PRIORITY_MIN_RAY)):
            yield where, "a group's priority needs autoscaler v2 and Ray 2.56"


@RULES.rule("group-suspended", "leave the group's suspend out")
def _check_group_suspended(job: RayJob) -> Breaches:
    for where, group in _iterate_worker_groups(job):
        if group.get("suspend") and job.autoscaling:
            yield where, "a group cannot be suspended with autoscaling"


@RULES.rule("autoscaler-command", "leave the variable out: KubeRay sets it")
def _check_autoscaler_command(job: RayJob) -> Breaches:
    options = as_mapping(job.cluster.get("autoscalerOptions"))
    if read_variable(options, "KUBERAY_GEN_AUTOSCALER_START_CMD") is not None:
        yield "spec.rayClusterSpec.autoscalerOptions.env", "KUBERAY_GEN_AUTOSCALER_START_CMD is set by hand"


def _iterate_worker_groups(job: RayJob) -> Iterator[tuple[str, dict[str, object]]]:
    for where, group in list(job.all_groups())[1:]:
        yield where, dict(group)
