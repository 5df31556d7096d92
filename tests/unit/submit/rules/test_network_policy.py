"""The NetworkPolicy of a run's storage, from its addresses; and which policies open it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.submit.manifest.host_class import HostClass
from medfuncta_dist.submit.rules.manifest_schema import check_core_object
from medfuncta_dist.submit.rules.network_policy import (
    PRIVATE_RANGES,
    Target,
    build_policy,
    classify,
    find_closed,
    list_targets,
    read_addresses,
    read_shipped_policies,
    warn_of_closed_storage,
)
from tests.unit.k8s.test_k8s import needs_kubectl
from tests.unit.submit.manifests import manifest

K8S = Path(__file__).parents[4] / "k8s"


def at(url: str) -> str:
    return f"kubernetes.environment={{AWS_ENDPOINT_URL: '{url}'}}"


def targets(*settings: str, overlays: tuple[str, ...] = ()) -> list[Target]:
    return list_targets(read_addresses(manifest(*settings, overlays=overlays)))


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("s3.eu-central-1.amazonaws.com", HostClass.PUBLIC),
        ("bucket.vpce-0a1b.s3.eu-central-1.vpce.amazonaws.com", HostClass.PRIVATE),
        ("s3.hospital.internal", HostClass.PRIVATE),
        ("10.1.2.3", HostClass.PRIVATE),
        ("fd00::1", HostClass.PRIVATE),
        ("3.5.140.2", HostClass.PUBLIC),
        ("minio", HostClass.CLUSTER),
        ("object-store.medfuncta", HostClass.CLUSTER),
        ("s3.minio.svc", HostClass.CLUSTER),
        ("s3.minio.svc.cluster.local", HostClass.CLUSTER),
        ("storage.example.org", HostClass.PUBLIC),
    ],
)
def test_the_class_of_a_host(host: str, place: HostClass) -> None:
    assert classify(host, "medfuncta") is place


def test_the_policy_opens_the_endpoint_and_its_port_only() -> None:
    policy = build_policy(targets(at("https://s3.hospital.internal:9000")), "medfuncta")
    assert check_core_object(policy) == []
    rule, pod_identity = policy["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 9000}]
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == list(PRIVATE_RANGES)
    assert pod_identity["ports"] == [{"protocol": "TCP", "port": 80}]


def test_the_namespace_of_a_service_and_the_address_of_a_machine_are_named() -> None:
    (service,) = targets(at("http://s3.minio.svc:9000"))
    rule = build_policy([service], "medfuncta")["spec"]["egress"][0]
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "minio"}}}]
    (machine,) = targets(at("https://10.1.2.3:8443"))
    rule = build_policy([machine], "medfuncta")["spec"]["egress"][0]
    assert rule == {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"protocol": "TCP", "port": 8443}]}


def test_where_a_proxy_leads_to_the_storage_the_proxy_is_opened() -> None:
    proxy = "kubernetes.proxy={https: 'http://proxy.hospital.internal:3128', no_proxy: [.direct.internal]}"
    assert [(t.host, t.port) for t in targets(proxy)] == [("proxy.hospital.internal", 3128)]
    both = targets(proxy, at("https://s3.direct.internal:9000"))
    assert [(t.host, t.port) for t in both] == [("s3.direct.internal", 9000), ("proxy.hospital.internal", 3128)]


@pytest.mark.parametrize(
    ("settings", "overlays"),
    [
        ((), ()),
        ((at("https://s3.hospital.internal"),), ()),
        ((at("https://10.1.2.3"),), ()),
        ((at("https://3.5.140.2"),), ()),
        ((at("https://100.64.0.1"),), ()),
        ((), ("local",)),
    ],
)
def test_what_the_shipped_policies_open(settings: tuple[str, ...], overlays: tuple[str, ...]) -> None:
    assert warn_of_closed_storage(manifest(*settings, overlays=overlays)) == ""


@pytest.mark.parametrize(
    "url",
    [
        "https://s3.hospital.internal:9000",
        "http://minio.minio.svc:9000",
        "http://other.medfuncta:9000",
        "http://s3.example.org",
    ],
)
def test_what_they_do_not_open_is_warned_about_and_the_rendered_policy_opens_it(url: str) -> None:
    rendered = manifest(at(url))
    assert "no NetworkPolicy of k8s/ opens" in warn_of_closed_storage(rendered)
    wanted = list_targets(read_addresses(rendered))
    assert find_closed(wanted, [*read_shipped_policies(), build_policy(wanted, "medfuncta")]) == []


@given(
    place=st.sampled_from(HostClass),
    host=st.sampled_from(["storage.example.org", "s3.minio.svc"]),
    port=st.integers(1, 65535),
    other=st.integers(1, 65535),
)
def test_a_policy_opens_what_it_was_built_for(place: HostClass, host: str, port: int, other: int) -> None:
    target = Target(host, port, place, "minio" if place is HostClass.CLUSTER else "")
    assert find_closed([target], [build_policy([target], "medfuncta")]) == []
    for changed in (place, *(p for p in HostClass if p is not place)):
        elsewhere = Target(host, other, changed, target.namespace)
        closed = find_closed([elsewhere], [build_policy([target], "medfuncta")])
        assert closed == ([] if (other, changed) == (port, place) else [elsewhere])


def test_without_policies_nothing_is_closed() -> None:
    assert find_closed([Target("x", 1, HostClass.PUBLIC)], []) == []
    ingress = {"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    assert find_closed([Target("x", 1, HostClass.PUBLIC)], [ingress]) == []


@needs_kubectl
def test_the_printed_policy_takes_the_place_of_the_base_s(tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(K8S / "base")
    policy = build_policy(targets(at("https://s3.hospital.internal:9000")), "medfuncta")
    (tmp_path / "s3.yaml").write_text(json.dumps(policy))
    own = {"resources": [str(Path("..") / K8S.relative_to("/") / "base")], "patches": [{"path": "s3.yaml"}]}
    folder = tmp_path / "own"
    folder.mkdir()
    (tmp_path / "s3.yaml").rename(folder / "s3.yaml")
    own["resources"] = ["../base"]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = [
        d for d in yaml.safe_load_all(done.stdout) if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "s3"
    ]
    assert [d["spec"]["egress"] for d in built] == [policy["spec"]["egress"]]
