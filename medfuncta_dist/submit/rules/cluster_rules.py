"""Rules of KubeRay 1.7 for the cluster inside a RayJob, which its CRD does not hold either."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medfuncta_dist.submit.rules.manifest_view import RayJob, as_int, as_mapping, is_at_least, read_variable
from medfuncta_dist.submit.rules.rule import RuleBook

RULES = RuleBook()
TOKENS_MIN_RAY = (2, 52, 0)
PRIORITY_MIN_RAY = (2, 56, 0)
GATED_FIELDS = ("networkPolicy", "tlsOptions", "historyServerOptions")
"""Parts of a cluster behind feature gates that are closed by default."""
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

Breaches = Iterator[tuple[str, str]]


@RULES.rule("replicas-given", "set minReplicas and maxReplicas; both equal to replicas for a fixed number of pods")
def _replicas_given(job: RayJob) -> Breaches:
    for where, group in _iterate_worker_groups(job):
        missing = [key for key in ("minReplicas", "maxReplicas") if as_int(group.get(key)) is None]
        if missing and not job.autoscaling:
            yield where, f"{' and '.join(missing)} missing, which only autoscaling may leave out"


@RULES.rule("replicas-range", "give cluster.workers as [fewest, most]")
def _replicas_range(job: RayJob) -> Breaches:
    for where, group in _iterate_worker_groups(job):
        fewest, number, most = (as_int(group.get(key)) for key in ("minReplicas", "replicas", "maxReplicas"))
        given = [n for n in (fewest, number, most) if n is not None]
        if any(n < 0 for n in given) or given != sorted(given):
            yield where, f"0 <= minReplicas <= replicas <= maxReplicas does not hold for {fewest}, {number}, {most}"


@RULES.rule("group-names", "give each worker group a name of its own")
def _group_names(job: RayJob) -> Breaches:
    names = [group.get("groupName") for group in job.groups]
    for name in sorted({str(name) for name in names if names.count(name) > 1}):
        yield "spec.rayClusterSpec.workerGroupSpecs", f"two groups are called {name!r}"


@RULES.rule("group-resources", "say a pod's size in its container's resources, and nothing in `resources` of the group")
def _group_resources(job: RayJob) -> Breaches:
    for where, group in job.all_groups():
        started = as_mapping(group.get("rayStartParams"))
        twice = [key for key in ("num-cpus", "num-gpus", "memory", "resources") if started.get(key)]
        if twice and group.get("resources"):
            yield where, f"both rayStartParams ({', '.join(twice)}) and resources say what the group has"


@RULES.rule("group-labels", "use legal labels, in the group's `labels`")
def _group_labels(job: RayJob) -> Breaches:
    for where, group in job.all_groups():
        if "labels" in as_mapping(group.get("rayStartParams")):
            yield f"{where}.rayStartParams", "labels stand here, where KubeRay does not take them"
        for key, value in as_mapping(group.get("labels")).items():
            if not LABEL_KEY.fullmatch(str(key)) or not LABEL_VALUE.fullmatch(str(value)):
                yield f"{where}.labels", f"{key}={value} is no label"


@RULES.rule("token-auth-version", "set kubernetes.ray_version to the image's Ray, 2.52 or later")
def _token_version(job: RayJob) -> Breaches:
    if job.auth.get("mode") == "token" and not is_at_least(job.ray_version, TOKENS_MIN_RAY):
        yield "spec.rayClusterSpec.authOptions", f"tokens need rayVersion >= 2.52.0, got {job.ray_version or 'none'}"


@RULES.rule("no-kubernetes-tokens", "leave enableK8sTokenAuth out: mode token alone works for RayJobs")
def _kubernetes_tokens(job: RayJob) -> Breaches:
    if job.auth.get("enableK8sTokenAuth"):
        yield "spec.rayClusterSpec.authOptions", "Kubernetes' own tokens are not supported for a RayJob"


@RULES.rule("feature-gates", "leave it out; k8s/base has NetworkPolicies that need no gate")
def _gates(job: RayJob) -> Breaches:
    for key in GATED_FIELDS:
        if job.cluster.get(key) is not None:
            yield f"spec.rayClusterSpec.{key}", "behind a feature gate that KubeRay 1.7 has closed by default"


@RULES.rule("upgrade-strategy", "leave upgradeStrategy out")
def _upgrade(job: RayJob) -> Breaches:
    if as_mapping(job.cluster.get("upgradeStrategy")).get("type") is not None:
        yield "spec.rayClusterSpec.upgradeStrategy", "not for the cluster of a RayJob"


@RULES.rule("fault-tolerant-gcs", "leave Redis out: state is in storage, and a new cluster resumes from there")
def _gcs(job: RayJob) -> Breaches:
    where = "spec.rayClusterSpec.headGroupSpec"
    started = as_mapping(job.head.get("rayStartParams"))
    options = job.cluster.get("gcsFaultToleranceOptions")
    if job.annotations.get("ray.io/ft-enabled") and options is not None:
        yield "metadata.annotations", "ray.io/ft-enabled and gcsFaultToleranceOptions both say the same"
    if options is None and not job.annotations.get("ray.io/ft-enabled"):
        if job.head_variable("RAY_REDIS_ADDRESS") is not None:
            yield where, "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
    elif any(job.head_variable(name) is not None for name in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD")):
        yield where, "Redis' address or password beside gcsFaultToleranceOptions"
    if started.get("redis-username") or job.head_variable("REDIS_USERNAME") is not None:
        yield where, "Redis' user name outside of gcsFaultToleranceOptions"


@RULES.rule(
    "autoscaler-version", "give cluster.workers a range without a queue, and leave the autoscaler to submission"
)
def _autoscaler(job: RayJob) -> Breaches:
    asked = job.head_variable("RAY_enable_autoscaler_v2")
    if asked in ("1", "true") and not job.autoscaling:
        yield "spec.rayClusterSpec.headGroupSpec", "RAY_enable_autoscaler_v2 without enableInTreeAutoscaling"
    if asked is not None and as_mapping(job.cluster.get("autoscalerOptions")).get("version") is not None:
        yield "spec.rayClusterSpec.autoscalerOptions", "the autoscaler's version is said twice"


@RULES.rule("autoscaler-restart", "set restartPolicy to Never")
def _autoscaler_restart(job: RayJob) -> Breaches:
    for where, pod in job.pods() if job.autoscaler_v2 else ():
        if pod.get("restartPolicy") not in (None, "", "Never"):
            yield where, f"autoscaler v2 needs restartPolicy Never, not {pod['restartPolicy']}"


@RULES.rule("autoscaler-idle", "set a time of 0 or more, and only where autoscaler v2 is on")
def _autoscaler_idle(job: RayJob) -> Breaches:
    options = as_mapping(job.cluster.get("autoscalerOptions"))
    if (as_int(options.get("idleTimeoutSeconds")) or 0) < 0:
        yield "spec.rayClusterSpec.autoscalerOptions", "idleTimeoutSeconds is below 0"
    for where, group in _iterate_worker_groups(job):
        idle = as_int(group.get("idleTimeoutSeconds"))
        if idle is not None and (idle < 0 or not job.autoscaler_v2):
            yield where, f"idleTimeoutSeconds {idle} without autoscaler v2, or below 0"


@RULES.rule("group-priority", "leave the group's priority out; kubernetes.priority is the job's")
def _group_priority(job: RayJob) -> Breaches:
    for where, group in _iterate_worker_groups(job):
        if group.get("priority") and not (job.autoscaler_v2 and is_at_least(job.ray_version, PRIORITY_MIN_RAY)):
            yield where, "a group's priority needs autoscaler v2 and Ray 2.56"


@RULES.rule("group-suspended", "leave the group's suspend out")
def _group_suspended(job: RayJob) -> Breaches:
    for where, group in _iterate_worker_groups(job):
        if group.get("suspend") and job.autoscaling:
            yield where, "a suspended group under autoscaling"


@RULES.rule("autoscaler-command", "leave the variable out: KubeRay sets it")
def _autoscaler_command(job: RayJob) -> Breaches:
    options = as_mapping(job.cluster.get("autoscalerOptions"))
    if read_variable(options, "KUBERAY_GEN_AUTOSCALER_START_CMD") is not None:
        yield "spec.rayClusterSpec.autoscalerOptions.env", "KUBERAY_GEN_AUTOSCALER_START_CMD is set by hand"


def _iterate_worker_groups(job: RayJob) -> Iterator[tuple[str, dict[str, object]]]:
    for where, group in list(job.all_groups())[1:]:
        yield where, dict(group)
