"""Every file of k8s/: it parses, it is used, it is valid, and the names in it meet."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from medfuncta_dist.submit.manifest.base_manifest import list_shipped_overlays, load_base
from medfuncta_dist.submit.manifest.job_names import RUN_LABEL
from medfuncta_dist.submit.rules.manifest_schema import check_core_object, check_custom_resource
from medfuncta_dist.submit.rules.manifest_view import RayJob
from medfuncta_dist.submit.rules.security_rules import RULES
from medfuncta_dist.telemetry.metric_catalogue import METRICS

K8S = Path(__file__).parents[3] / "k8s"
FILES = sorted(K8S.rglob("*.yaml"))
FOLDERS = sorted(path.parent for path in K8S.rglob("kustomization.yaml"))
RESOURCES = [path for path in FILES if path.name not in ("kustomization.yaml", "rayjob.yaml")]
TARGETS = [K8S / "base", *sorted((K8S / "overlays").iterdir())]
COMPONENTS = K8S / "components"
ELSEWHERE = ("kustomize.config.k8s.io", "monitoring.coreos.com")
"""Groups for whose kinds there is no schema here."""
METRIC = re.compile(r"\bray_[a-z0-9_]+")

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")


@cache
def _documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


@cache
def _built(folder: Path) -> list[dict[str, Any]]:
    run = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return list(yaml.safe_load_all(run.stdout))


def _name(path: Path) -> str:
    return str(path.relative_to(K8S))


def _one(path: str, kind: str) -> dict[str, Any]:
    (found,) = [document for document in _documents(K8S / path) if document["kind"] == kind]
    return found


def _check(document: dict[str, Any]) -> None:
    group = document["apiVersion"].partition("/")[0]
    folder = os.environ.get("MEDFUNCTA_SCHEMAS")
    if group == "kueue.x-k8s.io":
        assert not folder or check_custom_resource(document, Path(folder)) == []
    elif group not in ELSEWHERE:
        assert check_core_object(document) == []


@pytest.mark.parametrize("path", RESOURCES, ids=_name)
def test_every_resource_is_valid_by_its_kinds_schema(path):
    documents = _documents(path)
    assert documents
    for document in documents:
        assert document["metadata"]["name"]
        _check(document)


def test_custom_resources_were_checked():
    if not os.environ.get("MEDFUNCTA_SCHEMAS"):
        pytest.skip("MEDFUNCTA_SCHEMAS names no folder: Kueue's resources were not checked")
    queue = copy.deepcopy(_one("components/kueue/cluster-queue.yaml", "ClusterQueue"))
    queue["spec"]["preemption"]["withinClusterQueue"] = "Sometimes"
    assert check_custom_resource(queue, Path(os.environ["MEDFUNCTA_SCHEMAS"]))


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_a_kustomization_names_what_is_there_and_all_of_it(folder):
    (kustomization,) = _documents(folder / "kustomization.yaml")
    files = [patch["path"] for patch in kustomization.get("patches", [])]
    files += [f.partition("=")[2] for g in kustomization.get("configMapGenerator", []) for f in g["files"]]
    files += kustomization.get("resources", []) + kustomization.get("components", [])
    assert [file for file in files if not (folder / file).exists()] == []
    beside = {path.name for path in folder.iterdir()} - {"kustomization.yaml", "rayjob.yaml"}
    assert beside - set(files) == set()


@needs_kubectl
@pytest.mark.parametrize("folder", TARGETS, ids=_name)
def test_kubectl_builds_every_target(folder):
    built = _built(folder)
    for document in built:
        _check(document)
    assert {"Namespace", "ServiceAccount", "NetworkPolicy", "ResourceQuota"} <= {d["kind"] for d in built}
    assert "RayJob" not in {d["kind"] for d in built}
    everywhere = ("Namespace", "ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass", "PriorityClass")
    everywhere += ("ClusterRole", "ClusterRoleBinding")
    assert {d["metadata"].get("namespace") for d in built if d["kind"] not in everywhere} == {"medfuncta"}


@needs_kubectl
def test_the_quota_has_gpus_only_where_an_overlay_brings_them():
    quotas = {
        folder.name: next(d for d in _built(folder) if d["kind"] == "ResourceQuota")["spec"]["hard"]
        for folder in TARGETS
    }
    assert quotas["base"]["requests.nvidia.com/gpu"] == "0" != quotas["gpu"]["requests.nvidia.com/gpu"]
    assert all(quota["services.loadbalancers"] == "0" for quota in quotas.values())


def test_the_namespace_enforces_the_restricted_standard():
    labels = _one("base/namespace.yaml", "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_that_are_no_ray_jobs_keep_to_the_restricted_standard_too():
    template = _one("components/local/object-store.yaml", "Deployment")["spec"]["template"]
    job = RayJob({"spec": {"rayClusterSpec": {"headGroupSpec": {"template": template}}}})
    rules = [rule for rule in RULES.rules if rule.name.startswith("pod-")]
    assert rules
    assert [finding for rule in rules for finding in rule.findings(job)] == []


def test_submitters_may_do_what_the_client_does_and_read_no_secret():
    rules = _one("base/submitter.yaml", "Role")["rules"]
    may = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert {("rayjobs", verb) for verb in ("create", "get", "list", "watch", "patch", "delete")} <= may
    assert {("pods", "list"), ("pods/log", "get")} <= may
    assert {("rayclusters", "get"), ("workloads", "list"), ("events", "list")} <= may  # why a job waits
    (nodes,) = _one("base/submitter.yaml", "ClusterRole")["rules"]
    assert nodes == {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
    assert not [resource for resource, _ in may if "secret" in resource or resource == "*"]
    assert "*" not in {verb for _, verb in may}


def test_no_head_is_evicted_to_save_nodes():
    """A budget over pods of a custom resource takes a whole minAvailable only; more than the quota has is never met."""
    budget = _one("base/heads.yaml", "PodDisruptionBudget")["spec"]
    quota = _one("base/quota.yaml", "ResourceQuota")["spec"]["hard"]
    assert set(budget) == {"minAvailable", "selector"}
    assert isinstance(budget["minAvailable"], int)
    assert budget["minAvailable"] > int(quota["pods"])
    head = load_base()["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["annotations"]
    assert head["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert head["karpenter.sh/do-not-disrupt"] == "true"


def _policies() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in RESOURCES:
        for document in _documents(path):
            if document["kind"] == "NetworkPolicy":
                yield path, document["spec"]


def test_all_is_denied_that_is_not_named():
    denied = [spec for path, spec in _policies() if path.parent.name == "base" and spec["podSelector"] == {}]
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in denied
    assert all("ingress" not in spec for spec in denied)


def test_the_internet_is_open_to_wandb_and_public_s3_alone():
    private = re.compile(r"10\.|172\.16\.|192\.168\.|169\.254\.(20\.10|170\.23)/32")
    opened = {
        path.parent.name
        for path, spec in _policies()
        for rule in spec.get("egress", [])
        for peer in rule["to"]
        if not private.match(peer.get("ipBlock", {}).get("cidr", "10."))
    }
    assert opened == {"wandb", "public-s3"}
    assert all(rule.get("to") for _, spec in _policies() for rule in spec.get("egress", []))
    assert all(rule.get("from") for _, spec in _policies() for rule in spec.get("ingress", []))


def test_ports_of_policies_and_monitors_are_those_of_the_pods():
    base = load_base()["spec"]["rayClusterSpec"]
    groups = [base["headGroupSpec"], *base["workerGroupSpecs"]]
    ports = [{p["name"]: p["containerPort"] for p in g["template"]["spec"]["containers"][0]["ports"]} for g in groups]
    monitored = _one("components/monitoring/pod-monitor.yaml", "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"]
    scraped = _one("components/monitoring/network-policy.yaml", "NetworkPolicy")["spec"]["ingress"][0]["ports"][0][
        "port"
    ]
    assert {found[monitored] for found in ports} == {scraped}
    (operator,) = [s for _, s in _policies() if "kuberay-operator" in json.dumps(s)]
    assert [port["port"] for port in operator["ingress"][0]["ports"]] == [ports[0]["dashboard"]]


def test_a_queued_job_names_a_queue_and_a_priority_that_there_are():
    labels = load_base(["kueue"])["metadata"]["labels"]
    queue = _one("components/kueue/local-queue.yaml", "LocalQueue")
    assert labels["kueue.x-k8s.io/queue-name"] == queue["metadata"]["name"]
    assert (
        queue["spec"]["clusterQueue"] == _one("components/kueue/cluster-queue.yaml", "ClusterQueue")["metadata"]["name"]
    )
    priorities = {d["metadata"]["name"] for d in _documents(COMPONENTS / "kueue/priorities.yaml")}
    assert labels["kueue.x-k8s.io/priority-class"] in priorities
    flavors = {d["metadata"]["name"] for d in _documents(COMPONENTS / "kueue/flavors.yaml")}
    (group,) = _one("components/kueue/cluster-queue.yaml", "ClusterQueue")["spec"]["resourceGroups"]
    assert {flavor["name"] for flavor in group["flavors"]} == flavors
    assert all([r["name"] for r in flavor["resources"]] == group["coveredResources"] for flavor in group["flavors"])


def test_a_local_job_finds_its_object_store():
    store = _documents(COMPONENTS / "local/object-store.yaml")
    service, secret = (next(d for d in store if d["kind"] == kind) for kind in ("Service", "Secret"))
    container = load_base(["local"])["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    address = {item["name"]: item.get("value") for item in container["env"]}["AWS_ENDPOINT_URL"]
    meta = service["metadata"]
    assert address == f"http://{meta['name']}.{meta['namespace']}:{service['spec']['ports'][0]['port']}"
    assert container["envFrom"] == [{"secretRef": {"name": secret["metadata"]["name"]}}]
    assert set(secret["stringData"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_every_overlay_of_jobs_is_a_component_of_the_cluster():
    assert {"gpu", "spot", "kueue", "local"} == set(list_shipped_overlays())
    assert set(list_shipped_overlays()) <= {path.name for path in (K8S / "overlays").iterdir()}


@cache
def _dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((COMPONENTS / "monitoring/dashboard.json").read_text(encoding="utf-8"))
    return found


def _expressions() -> list[str]:
    panels = [target["expr"] for panel in _dashboard()["panels"] for target in panel["targets"]]
    notes = [note["expr"] for note in _dashboard()["annotations"]["list"]]
    groups = _one("components/monitoring/alerts.yaml", "PrometheusRule")["spec"]["groups"]
    return [*panels, *notes, *(rule["expr"] for group in groups for rule in group["rules"])]


@pytest.mark.parametrize("expression", _expressions())
def test_dashboard_and_alerts_ask_prometheus_for_metrics_that_there_are(expression):
    promql_parser.parse(expression.replace("$run", ".*"))
    used = set(METRIC.findall(expression))
    assert used
    assert used <= {metric.prometheus for metric in METRICS}


def test_the_dashboard_shows_what_a_platform_team_asks_for():
    titles = {panel["title"] for panel in _dashboard()["panels"]}
    wanted = {"Steps a second", "Scans a second", "Data wait", "Checkpoint age", "Quarantined", "Preemptions"}
    assert wanted <= titles
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in _dashboard()["panels"]]
    assert len(set(places)) == len(places)


def test_every_alert_says_what_and_what_to_do():
    (group,) = _one("components/monitoring/alerts.yaml", "PrometheusRule")["spec"]["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert "{{ $labels.run }}" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_the_monitors_labels_are_those_that_pods_get():
    relabelings = _one("components/monitoring/pod-monitor.yaml", "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    sources = {source for r in relabelings["relabelings"] for source in r["sourceLabels"]}
    prefix = "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", RUN_LABEL).removesuffix("run")
    assert any(source == f"{prefix}stage" for source in sources)
