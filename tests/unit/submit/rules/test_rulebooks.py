"""Every rule is broken once, and its message read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.submit.rules.manifest_view import RayJob
from medfuncta_dist.submit.rules.validate_manifest import RULES, validate
from tests.unit.submit.manifests import GONE, changed, manifest

SPEC = "spec/rayClusterSpec"
HEAD = f"{SPEC}/headGroupSpec"
HEAD_POD = f"{HEAD}/template/spec"
HEAD_CONTAINER = f"{HEAD_POD}/containers/0"
WORKERS = f"{SPEC}/workerGroupSpecs/0"
WORKER_POD = f"{WORKERS}/template/spec"
WORKER = f"{WORKER_POD}/containers/0"
QUEUED = {"metadata/labels/kueue.x-k8s.io~queue-name": "medfuncta"}
AUTOSCALED = {f"{SPEC}/enableInTreeAutoscaling": True, f"{SPEC}/autoscalerOptions": {"version": "v2"}}
PACKING = {"metadata/labels/medfuncta.dev~stage": "pack"}


def carrying(text: str) -> dict[str, Any]:
    """The changes that make a manifest carry another run file."""
    return {"spec/runtimeEnvYAML": yaml.safe_dump({"env_vars": {"MEDFUNCTA_RUN_FILE": text}})}


LOCAL = carrying("{name: a, storage: /data/out, data: {source: /data/in, shape: [8]}}")

AMD = (
    "{name: a, storage: s3://bucket/a, data: {source: 's3://archive/*', shape: [8]}, "
    "kubernetes: {gpu_resource: amd.com/gpu}}"
)
LARGE = (
    "{name: a, storage: s3://bucket/a, data: {source: 's3://archive/*.nii', shape: [512, 512, 512]}, "
    "train: {batch: 50}, fit: {closed_form: false}, cluster: {workers: 2, gpus_per_worker: 1}}"
)

BREAKS: list[tuple[str, dict[str, Any], str]] = [
    ("kind", {"kind": "RayCluster"}, "RayCluster is not ray.io/v1 RayJob"),
    ("name-length", {"metadata/name": "a" * 48}, "has 48 characters; KubeRay, which appends some, allows 47"),
    ("name-dns-1035", {"metadata/name": "1st-run"}, "'1st-run' is not a DNS-1035 label"),
    ("submission-mode", {"spec/submissionMode": "HttpMode"}, "there is no mode 'HttpMode'"),
    ("suspend-needs-shutdown", {"spec/suspend": True, "spec/shutdownAfterJobFinishes": False}, "cannot be suspended"),
    ("ttl-not-negative", {"spec/ttlSecondsAfterFinished": -1}, "is below 0"),
    ("ttl-needs-shutdown", {"spec/shutdownAfterJobFinishes": False}, "a cluster that is never removed"),
    (
        "deletion-rules-exclude-shutdown",
        {"spec/deletionStrategy": {"deletionRules": [{}]}},
        "combined with shutdownAfterJobFinishes",
    ),
    ("deletion-strategy", {"spec/deletionStrategy": {}}, "needs either deletionRules, or"),
    ("deletion-strategy", {"spec/deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}}}, "has only onSuccess"),
    ("backoff-not-negative", {"spec/backoffLimit": -1}, "is below 0"),
    ("backoff-needs-own-cluster", {"spec/clusterSelector": {"ray.io/cluster": "x"}}, "names an existing one"),
    ("backoff-not-interactive", {"spec/submissionMode": "InteractiveMode"}, "a user submits by hand"),
    ("cluster-given", {SPEC: GONE}, "the job has no cluster"),
    ("selector", {"spec/clusterSelector": {"app": "x"}}, "names no cluster"),
    ("selector", {"spec/clusterSelector": {"ray.io/cluster": "x"}, "spec/suspend": True}, "on an existing cluster"),
    (
        "selector",
        {"spec/clusterSelector": {"ray.io/cluster": "x"}, "spec/submissionMode": "SidecarMode"},
        "the job's own cluster",
    ),
    ("sidecar", {"spec/submissionMode": "SidecarMode", "spec/submitterPodTemplate": {}}, "no submitter pod"),
    ("sidecar", {"spec/submissionMode": "SidecarMode", f"{HEAD_POD}/restartPolicy": "Always"}, "Never, not Always"),
    ("runtime-env", {"spec/runtimeEnvYAML": "a: ["}, "not a YAML mapping"),
    ("deadlines", {"spec/preRunningDeadlineSeconds": 0}, "0 is not a positive number"),
    ("managed-by", {"spec/managedBy": "me"}, "'me' is not a controller of RayJobs"),
    ("ray-container", {f"{HEAD_POD}/containers": []}, "no container for Ray"),
    ("replicas-given", {f"{WORKERS}/minReplicas": GONE}, "minReplicas missing"),
    ("replicas-range", {f"{WORKERS}/maxReplicas": 2}, "does not hold for 8, 8, 2"),
    ("replicas-range", {f"{WORKERS}/minReplicas": -1}, "does not hold for -1, 8, 8"),
    ("group-names", {f"{SPEC}/workerGroupSpecs/1": {"groupName": "gpu"}}, "several groups have the name 'gpu'"),
    ("group-resources", {f"{HEAD}/resources": {"CPU": "1"}}, "in rayStartParams (num-cpus) and in resources"),
    ("group-labels", {f"{WORKERS}/rayStartParams/labels": "a=b"}, "KubeRay does not accept labels"),
    ("group-labels", {f"{WORKERS}/labels": {"a b": "c"}}, "a b=c is not a valid label"),
    ("token-auth-version", {f"{SPEC}/rayVersion": "2.51.0"}, "need rayVersion >= 2.52.0, got 2.51.0"),
    ("token-auth-version", {f"{SPEC}/rayVersion": ""}, "got none"),
    ("no-kubernetes-tokens", {f"{SPEC}/authOptions/enableK8sTokenAuth": True}, "not supported in a RayJob"),
    ("feature-gates", {f"{SPEC}/networkPolicy": {}}, "needs a feature gate"),
    ("upgrade-strategy", {f"{SPEC}/upgradeStrategy": {"type": "Recreate"}}, "does not apply to the cluster"),
    (
        "fault-tolerant-gcs",
        {f"{HEAD_CONTAINER}/env/0": {"name": "RAY_REDIS_ADDRESS", "value": "redis"}},
        "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions",
    ),
    (
        "fault-tolerant-gcs",
        {
            f"{HEAD_CONTAINER}/env/0": {"name": "REDIS_USERNAME", "value": "me"},
            f"{SPEC}/gcsFaultToleranceOptions": {},
        },
        "user name of Redis is set outside",
    ),
    (
        "fault-tolerant-gcs",
        {
            f"{HEAD_CONTAINER}/env/0": {"name": "REDIS_PASSWORD", "value": "x"},
            f"{SPEC}/gcsFaultToleranceOptions": {},
            "metadata/annotations/ray.io~ft-enabled": "true",
        },
        "cannot be combined",
    ),
    (
        "autoscaler-version",
        {f"{HEAD_CONTAINER}/env/0": {"name": "RAY_enable_autoscaler_v2", "value": "1"}},
        "without enableInTreeAutoscaling",
    ),
    (
        "autoscaler-version",
        {**AUTOSCALED, f"{HEAD_CONTAINER}/env/0": {"name": "RAY_enable_autoscaler_v2", "value": "1"}},
        "set twice",
    ),
    ("autoscaler-restart", {**AUTOSCALED, f"{WORKER_POD}/restartPolicy": "Always"}, "Never, not Always"),
    ("autoscaler-idle", {f"{WORKERS}/idleTimeoutSeconds": 60}, "without autoscaler v2"),
    ("autoscaler-idle", {f"{SPEC}/autoscalerOptions": {"idleTimeoutSeconds": -1}}, "is below 0"),
    ("group-priority", {f"{WORKERS}/priority": 1}, "needs autoscaler v2 and Ray 2.56"),
    ("group-suspended", {**AUTOSCALED, f"{WORKERS}/suspend": True}, "cannot be suspended with autoscaling"),
    (
        "autoscaler-command",
        {f"{SPEC}/autoscalerOptions": {"env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}]}},
        "is set by hand",
    ),
    (
        "kueue-queue-name",
        {"metadata/labels/kueue.x-k8s.io~queue-name": "My Queue"},
        "'My Queue' is not a valid name of a queue",
    ),
    ("kueue-priority", {"metadata/labels/kueue.x-k8s.io~priority-class": "high"}, "has no effect without a queue"),
    ("kueue-shutdown", {**QUEUED, "spec/shutdownAfterJobFinishes": False}, "hold its quota forever"),
    ("kueue-own-cluster", {**QUEUED, "spec/clusterSelector": {"ray.io/cluster": "x"}}, "an existing cluster"),
    ("kueue-suspend", {**QUEUED, "spec/suspend": True}, "only Kueue sets this field"),
    ("kueue-no-autoscaling", {**QUEUED, **AUTOSCALED}, "cannot add workers"),
    (
        "kueue-groups",
        {**QUEUED, **{f"{SPEC}/workerGroupSpecs/{n}": {"groupName": f"g{n}"} for n in range(1, 18)}},
        "18 groups; Kueue allows 17",
    ),
    ("kueue-group-name", {**QUEUED, f"{WORKERS}/groupName": "head"}, "uses this name for the head"),
    ("kueue-requests", {**QUEUED, f"{WORKER}/resources/requests": {"cpu": "1"}}, "memory not requested"),
    ("token-auth", {f"{SPEC}/authOptions/mode": "disabled"}, "CVE-2023-48022"),
    ("private-head", {f"{HEAD}/serviceType": "LoadBalancer"}, "LoadBalancer exposes the head"),
    ("private-head", {f"{HEAD}/enableIngress": True}, "an ingress exposes the head"),
    ("pod-host", {f"{WORKER_POD}/hostNetwork": True}, "forbids host namespaces"),
    ("pod-host", {f"{WORKER_POD}/volumes/0": {"name": "disk", "hostPath": {"path": "/"}}}, "forbids hostPath"),
    ("pod-host", {f"{WORKER}/ports/0/hostPort": 8080}, "forbids host ports"),
    ("pod-user", {f"{WORKER_POD}/securityContext/runAsNonRoot": False}, "may run as root"),
    ("pod-user", {f"{WORKER}/securityContext/runAsUser": 0}, "may run as root"),
    ("pod-user", {f"{WORKER_POD}/securityContext/seccompProfile": GONE}, "has no seccomp profile"),
    ("pod-privileges", {f"{WORKER}/securityContext/privileged": True}, "may gain privileges"),
    (
        "pod-privileges",
        {f"{WORKER}/securityContext/capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}},
        "keeps cap",
    ),
    (
        "no-secrets",
        {f"{WORKER}/env/0": {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}},
        "AWS_SECRET_ACCESS_KEY has its value in the manifest",
    ),
    ("no-secrets", carrying("storage: s3://AKIAABCDEFGHIJKLMNOP@bucket"), "looks like a credential (AKIA...)"),
    ("no-secrets", {"metadata/annotations/x": "https://me:word@host"}, "looks like a credential"),
    ("http-mode", {"spec/submissionMode": "K8sJobMode"}, "ends a job when its log stream closes"),
    ("http-mode", {"spec/submissionMode": GONE}, "K8sJobMode ends a job"),
    ("cluster-removed", {"spec/shutdownAfterJobFinishes": GONE}, "would stay, and cost"),
    ("no-deadline", {"spec/activeDeadlineSeconds": 3600}, "a preempted job waits also counts"),
    ("image-ray-version", {f"{WORKER}/image": "x/medfuncta-dist:0.1.0-ray2.59.0"}, "the tag names Ray 2.59.0"),
    ("one-image", {f"{WORKER}/image": "other:1"}, "groups have different images"),
    ("one-image", {f"{WORKER}/image": ""}, "a container has no image"),
    ("head-without-tasks", {f"{HEAD}/rayStartParams/num-cpus": "2"}, "a task that runs on the head"),
    (
        "head-on-stable-nodes",
        {f"{HEAD_POD}/tolerations": [{"key": "cloud.google.com/gke-spot", "operator": "Exists"}]},
        "the head may run on a spot node",
    ),
    ("head-on-stable-nodes", {f"{HEAD_POD}/tolerations": [{"operator": "Exists"}]}, "the head may run on"),
    ("drain-within-grace", {f"{WORKER_POD}/terminationGracePeriodSeconds": GONE}, "a grace of 30 s is too short"),
    ("drain-within-grace", {f"{WORKER}/env": []}, "drains for an unknown number of s"),
    ("memory-and-shm", {f"{WORKER}/resources/limits": {}}, "no memory limit"),
    ("memory-and-shm", {f"{WORKER}/volumeMounts": []}, "/dev/shm is not a memory volume"),
    ("memory-and-shm", {f"{WORKER}/resources/limits/memory": "7Gi"}, "leave less than a fifth"),
    ("whole-gpus", {f"{WORKER}/resources/requests/nvidia.com~gpu": "2"}, "equal in requests and limits"),
    ("no-idle-gpus", PACKING, "pack would hold GPUs without using them"),
    ("salt", PACKING, "packs without a salt"),
    ("run-file", {"spec/entrypoint": ""}, "has no command"),
    ("run-file", carrying("name: Bad Name"), "run file is invalid"),
    ("reachable-data", LOCAL, "the folder /data/out is not on a volume"),
    ("reachable-data", {**LOCAL, **PACKING}, "the folder /data/in is not on a volume"),
    (
        "reachable-data",
        {**carrying("{name: a, storage: s3://bucket/c, data: {source: 'file:///in/x', shape: [8]}}"), **PACKING},
        "the folder /in/x is not on a volume",
    ),
    (
        "kueue-max-time",
        {"metadata/labels/kueue.x-k8s.io~max-exec-time-seconds": "3600"},
        "has no effect without a queue",
    ),
    (
        "kueue-max-time",
        {**QUEUED, "metadata/labels/kueue.x-k8s.io~max-exec-time-seconds": "1h"},
        "'1h' is not a number of seconds",
    ),
    (
        "kueue-max-time",
        {**QUEUED, "metadata/labels/kueue.x-k8s.io~max-exec-time-seconds": str(2**31)},
        "is not a number of seconds that Kueue reads",
    ),
    (
        "whole-gpus",
        {**carrying(AMD), f"{WORKER}/resources/requests/amd.com~gpu": "2"},
        "amd.com/gpu must be a whole number",
    ),
    ("volume-limits", {f"{WORKER_POD}/volumes/0": {"name": "mine", "emptyDir": {}}}, "it could fill the node's disk"),
    ("disk-limit", {f"{WORKER}/resources/limits/ephemeral-storage": "20Gi"}, "is evicted beyond 20.0 GiB"),
    ("mount-paths", {f"{WORKER}/volumeMounts/0/mountPath": "/spill"}, "several volumes are mounted at /spill"),
    ("worker-memory", {f"{WORKER}/resources/limits/memory": "6700Mi"}, "1 worker of train need at least 0.4 GiB"),
    ("worker-memory", carrying(LARGE), "1 worker of train need at least 12.9 GiB for scans of shape [512, 512, 512]"),
    ("manifest-size", {"metadata/annotations/x": "y" * 2**20}, "bytes; the cluster can store"),
]


@pytest.mark.parametrize(("rule", "changes", "needle"), BREAKS, ids=[f"{b[0]}-{n}" for n, b in enumerate(BREAKS)])
def test_a_broken_rule_says_what_is_wrong_and_what_to_do(rule, changes, needle):
    (broken,) = [found for found in RULES if found.name == rule]
    findings = broken.findings(RayJob(changed(manifest(), changes)))
    assert any(needle in finding.what for finding in findings), findings
    assert all(finding.where and finding.do for finding in findings)
    assert broken.findings(RayJob(manifest())) == []


def test_every_rule_is_broken_above_and_has_a_name_of_its_own():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(names) == {rule for rule, _, _ in BREAKS}


def test_a_rendered_manifest_breaks_none():
    for stages in (["pack"], ["train"], ["pack", "train", "fit", "evaluate"]):
        assert validate(manifest(stages=stages, overlays=["gpu", "spot", "kueue"])) == []


def test_a_folder_on_a_mounted_claim_is_reachable(tmp_path):
    claims = ["kubernetes.claims={archive: /data/in, results: /data/out}"]
    places = ["storage=/data/out/runs", "data.source=/data/in/*.png"]
    assert validate(manifest(*claims, *places, stages=["pack"])) == []
    assert validate(manifest(claims[0], "storage=/data/outside", stages=["train"])) != []


def test_rules_bear_any_nonsense():
    for nonsense in ({}, {"metadata": 1, "spec": []}, {"spec": {"rayClusterSpec": {"workerGroupSpecs": [1, {}]}}}):
        assert validate(nonsense)


@st.composite
def _broken_somewhere(draw: st.DrawFn) -> dict[str, Any]:
    """A good manifest, a part of which is replaced by anything."""
    whole = manifest(overlays=["kueue"])
    place: Any = whole
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            place[key] = draw(st.sampled_from([None, 0, -1, "", "x: [", [], {}, [None], {"name": None}, True]))
            return whole
        place = inner


@settings(max_examples=60, deadline=None)
@given(_broken_somewhere())
def test_rules_bear_a_manifest_with_anything_anywhere(broken):
    for rule in RULES:
        rule.findings(RayJob(broken))
