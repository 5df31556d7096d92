"""Checks of a Kubernetes cluster through the official client, against an HTTP server that answers as its API does."""

from __future__ import annotations

import json
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor import kubernetes_checks
from medfuncta_dist.doctor.check import CheckResult, Outcome, run_checks
from medfuncta_dist.doctor.kubernetes_checks import NEEDED_PERMISSIONS, list_kubernetes_checks
from medfuncta_dist.submit.rules.network_policy import read_shipped_policies
from tests.unit.doctor.served import Answers, served

SPACE = "/api/v1/namespaces/medfuncta"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/medfuncta/networkpolicies"


def deployment(name: str, tag: str) -> dict[str, Any]:
    container = {"name": "manager", "image": f"quay.io/operators/{name}:{tag}"}
    return {
        "metadata": {"name": name},
        "spec": {"selector": {}, "template": {"spec": {"containers": [container]}}},
    }


def resources(version: str, *names: str) -> dict[str, Any]:
    listed = [{"name": name, "kind": name, "namespaced": True, "singularName": "", "verbs": ["get"]} for name in names]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": listed}


def whole(**changes: Any) -> Answers:
    """A cluster in which everything is in place."""
    queue = {"status": {"pendingWorkloads": 2, "conditions": [{"type": "Active", "status": "True"}]}}
    answers: Answers = {
        ("GET", "/version/"): {
            "gitVersion": "v1.33.1",
            **dict.fromkeys(
                ("major", "minor", "platform", "buildDate", "compiler", "goVersion", "gitCommit", "gitTreeState"), ""
            ),
        },
        ("GET", SPACE): {"metadata": {"name": "medfuncta"}},
        ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"): {"spec": {}, "status": {"allowed": True}},
        ("GET", "/apis/ray.io/v1"): resources("ray.io/v1", "rayjobs"),
        ("GET", "/apis/kueue.x-k8s.io/v1beta2"): resources("kueue.x-k8s.io/v1beta2", "localqueues"),
        ("GET", "/apis/apps/v1/deployments"): {"items": [deployment("kuberay-operator", "v1.7.0")]},
        ("GET", "/apis/kueue.x-k8s.io/v1beta2/namespaces/medfuncta/localqueues/scans"): queue,
        ("GET", f"{SPACE}/secrets/medfuncta-salt"): {"metadata": {"name": "medfuncta-salt"}},
        ("GET", POLICIES): {"items": read_shipped_policies()},
        ("GET", f"{SPACE}/serviceaccounts/medfuncta"): {"metadata": {"name": "medfuncta"}},
    }
    return answers | changes.get("answers", {})


def examined(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int = 0, **kubernetes: Any
) -> dict[str, CheckResult]:
    with served(answers) as address:
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "elsewhere"}}],
            "clusters": [{"name": "k", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        file = tmp_path / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(file))
        run = RunFile.model_validate(
            {
                "name": "r",
                "storage": "s3://bucket/x",
                "data": {"source": "s3://archive/*.png", "shape": [8, 8]},
                "cluster": {"gpus_per_worker": gpus},
                "kubernetes": kubernetes,
            }
        )
        return {found.name: found for found in run_checks(list_kubernetes_checks(run, None))}


def test_a_cluster_that_has_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = "registry.example/medfuncta-dist:0.1.0-ray2.60.0"
    found = examined(whole(), tmp_path, monkeypatch, queue="scans", overlays=["kueue"], image=image)
    assert {name: f.finding.state for name, f in found.items()} == dict.fromkeys(found, Outcome.PASSED), found
    assert "v1.33.1" in found["kubernetes"].finding.what
    assert "1.7.0" in found["kuberay"].finding.what
    assert "2 waiting" in found["queue"].finding.what


@pytest.mark.parametrize(
    ("check", "changed", "words"),
    [
        ("kubernetes", {("GET", SPACE): 404}, "no namespace medfuncta"),
        ("kubernetes", {("GET", "/version/"): 401}, "401"),
        (
            "permissions",
            {
                ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"): {
                    "spec": {},
                    "status": {"allowed": False},
                }
            },
            "create rayjobs",
        ),
        ("kuberay", {("GET", "/apis/ray.io/v1"): 404}, "KubeRay is not installed"),
        (
            "kuberay",
            {("GET", "/apis/apps/v1/deployments"): {"items": [deployment("kuberay-operator", "v1.4.2")]}},
            "1.4.2",
        ),
        ("kueue", {("GET", "/apis/kueue.x-k8s.io/v1beta2"): 404}, "Kueue"),
        (
            "queue",
            {("GET", "/apis/kueue.x-k8s.io/v1beta2/namespaces/medfuncta/localqueues/scans"): 404},
            "no LocalQueue",
        ),
        (
            "queue",
            {
                ("GET", "/apis/kueue.x-k8s.io/v1beta2/namespaces/medfuncta/localqueues/scans"): {
                    "status": {"conditions": [{"type": "Active", "status": "False", "message": "no ClusterQueue"}]}
                }
            },
            "no ClusterQueue",
        ),
        ("secrets", {("GET", f"{SPACE}/secrets/medfuncta-salt"): 404}, "Secret medfuncta-salt"),
        ("secrets", {("GET", f"{SPACE}/serviceaccounts/medfuncta"): 404}, "ServiceAccount medfuncta"),
    ],
)
def test_what_is_missing_is_told_with_its_remedy(
    check: str, changed: Answers, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = examined(whole(answers=changed), tmp_path, monkeypatch, queue="scans", overlays=["kueue"])[check].finding
    assert found.state is Outcome.FAILED
    assert words in found.what
    assert found.do


@pytest.mark.parametrize(
    ("covered", "asked", "state"),
    [
        (["cpu", "memory"], True, Outcome.WARNED),
        (["cpu", "memory", "ephemeral-storage"], True, Outcome.PASSED),
        (["cpu", "memory"], False, Outcome.PASSED),
        (None, True, Outcome.PASSED),
    ],
)
def test_a_queue_must_cover_the_disk_that_pods_request(
    covered: list[str] | None, asked: bool, state: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kueue = "/apis/kueue.x-k8s.io/v1beta2"
    whole_queue = {"spec": {"resourceGroups": [{"coveredResources": covered}]}}
    answers: Answers = {
        ("GET", f"{kueue}/namespaces/medfuncta/localqueues/scans"): {"spec": {"clusterQueue": "all"}, "status": {}},
        ("GET", f"{kueue}/clusterqueues/all"): 403 if covered is None else whole_queue,
    }
    settings = {"queue": "scans", "overlays": ["kueue"], "ephemeral_storage": asked}
    found = examined(whole(answers=answers), tmp_path, monkeypatch, **settings)["queue"].finding
    assert found.state is state
    assert ("kubernetes.ephemeral_storage: false" in found.do) is (state is Outcome.WARNED)


def test_an_operator_that_may_not_be_seen_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = whole(answers={("GET", "/apis/apps/v1/deployments"): 403})
    assert examined(hidden, tmp_path, monkeypatch)["kuberay"].finding.state is Outcome.WARNED


def test_secrets_that_a_submitter_may_not_read_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = whole(answers={("GET", f"{SPACE}/secrets/medfuncta-salt"): 403, ("GET", SPACE): 403})
    found = examined(hidden, tmp_path, monkeypatch)
    assert found["secrets"].finding.state is Outcome.WARNED
    assert found["kubernetes"].finding.state is Outcome.PASSED


def test_an_image_of_another_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(whole(), tmp_path, monkeypatch, cpu_image="medfuncta-dist:0.1.0-ray2.1.0")
    assert found["image"].finding.state is Outcome.FAILED
    assert found["manifest"].finding.state is Outcome.FAILED


def test_the_manifest_of_a_job_with_gpus_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"cpu_image": "r.example/m:0.1.0-ray2.60.0", "image": "r.example/m:0.1.0-ray2.1.0"}
    found = examined(whole(), tmp_path, monkeypatch, gpus=1, **images)["manifest"].finding
    assert found.state is Outcome.FAILED
    assert "2.1.0" in found.what


def test_an_image_that_no_node_can_pull_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(whole(), tmp_path, monkeypatch)["image"].finding
    assert found.state is Outcome.WARNED
    assert "kubernetes.image" in found.do


def test_an_image_of_another_version_of_this_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both images of a run with GPUs, and with a registry."""
    images = {"cpu_image": "r.example/m:0.1.0-ray2.60.0", "image": "r.example/m:0.0.9-ray2.60.0"}
    found = examined(whole(), tmp_path, monkeypatch, gpus=1, **images)["image"].finding
    assert found.state is Outcome.WARNED
    assert "r.example/m:0.0.9-ray2.60.0 names version 0.0.9" in found.what
    assert "medfuncta-dist image" in found.do


def test_an_image_that_is_never_pulled_needs_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examined(whole(), tmp_path, monkeypatch, overlays=["local"])["image"].finding
    assert found.state is Outcome.PASSED


def test_every_right_that_is_asked_for_is_one_that_submitters_get() -> None:
    role = next(yaml.safe_load_all((files("medfuncta_dist") / "k8s/base/submitter.yaml").read_text()))
    given = {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert set(NEEDED_PERMISSIONS) <= given
    assert {("watch", "ray.io", "rayjobs"), ("get", "", "pods/log")} <= set(NEEDED_PERMISSIONS)


def test_a_right_to_logs_is_asked_for_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subresource has a field of its own; in the resource's name it would be refused to everybody."""
    path = ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
    asked: list[dict[str, Any]] = []

    def answer(_headers: Any, body: bytes) -> Any:
        asked.append(json.loads(body)["spec"]["resourceAttributes"])
        return {"spec": {}, "status": {"allowed": True}}

    examined(whole(answers={path: answer}), tmp_path, monkeypatch)
    assert {"resource": "pods", "subresource": "log", "verb": "get"}.items() <= asked[-1].items()


def test_no_kubeconfig_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    (found,) = run_checks(list_kubernetes_checks(None, None))
    assert found.finding.state is Outcome.SKIPPED


def test_storage_that_no_policy_opens_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"environment": {"AWS_ENDPOINT_URL": "https://s3.hospital.internal:9000"}}
    closed = examined(whole(), tmp_path, monkeypatch, **there)["network policy"].finding
    assert closed.state is Outcome.WARNED
    assert "s3.hospital.internal:9000 (at private addresses)" in closed.what
    assert "medfuncta-dist network-policy RUN.yaml" in closed.do
    unread = examined(whole(answers={("GET", POLICIES): 403}), tmp_path, monkeypatch, **there)["network policy"].finding
    assert unread.state is Outcome.WARNED
    assert "of k8s/ (the cluster's may not be read)" in unread.what
    none = examined(whole(answers={("GET", POLICIES): {"items": []}}), tmp_path, monkeypatch, **there)
    assert none["network policy"].finding.state is Outcome.PASSED


def test_a_missing_config_map_of_cas_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"ca_config_map": {"name": "hospital-ca"}}
    missing = examined(whole(), tmp_path, monkeypatch, **named)["secrets"].finding
    assert missing.state is Outcome.FAILED
    assert "ConfigMap hospital-ca" in missing.what
    there = {("GET", f"{SPACE}/configmaps/hospital-ca"): {"metadata": {"name": "hospital-ca"}}}
    assert examined(whole(answers=there), tmp_path, monkeypatch, **named)["secrets"].finding.state is Outcome.PASSED


def test_an_api_server_that_is_not_there_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_checks, "DEADLINE_S", 1.0)
    examined(whole(), tmp_path, monkeypatch)  # its server has ended, and KUBECONFIG still names it
    began = time.monotonic()
    found = {check.name: check.finding.state for check in run_checks(list_kubernetes_checks(None, None))}
    assert time.monotonic() - began < 10
    assert found.pop("kubernetes") is Outcome.FAILED
    assert set(found.values()) == {Outcome.SKIPPED}
