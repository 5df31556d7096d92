"""The NetworkPolicy that lets pods reach their storage, from the addresses that a job uses; and whether some do."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import yaml

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.host_class import HostClass
from medfuncta_dist.submit.manifest.pod_network import choose_endpoint, is_in_cluster
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.rules.manifest_view import RayJob, as_mapping, as_mappings

PRIVATE_RANGES = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
NOT_PUBLIC = (*PRIVATE_RANGES, "169.254.0.0/16")
PRIVATE_SUFFIXES = (".internal", ".local", ".lan", ".intranet", ".corp", ".home.arpa", ".test")
"""Endings of names that the internet does not have. (AWS's interface endpoints have ``.vpce.`` inside.)"""
RAY_PODS = {"ray.io/is-ray-node": "yes"}
POD_IDENTITY = {"to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}], "ports": [{"protocol": "TCP", "port": 80}]}
"""EKS Pod Identity gives out credentials at this address."""
DEFAULT_PORTS = {"http": 80, "https": 443}
REMEDY = "run `medfuncta-dist network-policy RUN.yaml | kubectl apply -f -`, if the cluster enforces policies"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Target:
    """A place that pods must reach: its name or address, port and class; ``namespace`` of a Service."""

    host: str
    port: int
    place: HostClass
    namespace: str = ""
    in_own_namespace: bool = False
    """Whether that is the pods' own."""

    def __str__(self) -> str:
        where = (
            f"in the namespace {self.namespace}" if self.place is HostClass.CLUSTER else f"at {self.place} addresses"
        )
        return f"{self.host}:{self.port} ({where})"


class PodAddresses(NamedTuple):
    """What a job's pods connect to: the address of S3 (None: AWS's own), and the proxies of their environment."""

    endpoint: str | None
    region: str
    proxies: Mapping[str, str]
    no_proxy: str
    namespace: str


def read_addresses(manifest: Mapping[str, Any]) -> PodAddresses:
    """From a rendered RayJob: overlays may set them, too."""
    job = RayJob(manifest)
    (_, head), *_ = job.ray_containers()
    values = {str(v.get("name")): str(v.get("value", "")) for v in as_mappings(head.get("env"))}
    proxies = {scheme: values.get(f"{scheme.upper()}_PROXY", "") for scheme in DEFAULT_PORTS}
    region = values.get("AWS_DEFAULT_REGION") or values.get("AWS_REGION") or "us-east-1"
    namespace = str(job.metadata.get("namespace", ""))
    return PodAddresses(choose_endpoint(values), region, proxies, values.get("NO_PROXY", ""), namespace)


def list_targets(addresses: PodAddresses, place: HostClass | None = None, port: int | None = None) -> list[Target]:
    """Where pods must get to: the storage's endpoint, unless a proxy leads to it, and the proxies.

    ``place`` and ``port`` are those of the endpoint where its name does not tell: a Service whose pods listen at
    another port than it does, a private address with a public name.
    """
    endpoint = addresses.endpoint or f"https://s3.{addresses.region}.amazonaws.com"
    parts = urlsplit(endpoint)
    proxied = addresses.proxies.get(parts.scheme) and not _is_direct(parts.hostname or "", addresses.no_proxy)
    storage = [] if proxied else [_target(endpoint, addresses.namespace, place, port)]
    proxies = [_target(proxy, addresses.namespace, None, None) for proxy in addresses.proxies.values() if proxy]
    return list(dict.fromkeys([*storage, *proxies]))


def build_policy(targets: Sequence[Target], namespace: str) -> dict[str, Any]:
    """The NetworkPolicy ``s3`` that opens these places, and no others."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "s3", "namespace": namespace},
        "spec": {
            "podSelector": {"matchLabels": dict(RAY_PODS)},
            "policyTypes": ["Egress"],
            "egress": [*(_egress(target) for target in targets), POD_IDENTITY],
        },
    }


def find_closed(targets: Sequence[Target], policies: Sequence[Mapping[str, Any]]) -> list[Target]:
    """The places that none of these policies opens for Ray's pods. Without any policy, everything is open."""
    rules = [as_mapping(p.get("spec")) for p in policies]
    mine = [spec for spec in rules if _selects_ray(spec) and "Egress" in spec.get("policyTypes", [])]
    return [t for t in targets if mine and not any(_opens(rule, t) for spec in mine for rule in _egress_of(spec))]


def read_shipped_policies() -> list[dict[str, Any]]:
    """The NetworkPolicies of k8s/, those of all components included."""
    folder = files("medfuncta_dist") / "k8s"
    texts = [folder / "base" / "network-policies.yaml"]
    texts += [c / "network-policy.yaml" for c in sorted((folder / "components").iterdir(), key=lambda c: c.name)]
    found = [yaml.safe_load_all(text.read_text(encoding="utf-8")) for text in texts if text.is_file()]
    return [document for documents in found for document in documents]


def render_pack_job(run: RunFile, overlays: Sequence[str] = ()) -> dict[str, Any]:
    """A job of the run, for the addresses in its pods."""
    return render(Submission(run, ("pack",), 1, "network", ""), load_base([*run.kubernetes.overlays, *overlays]))


def describe_closed(targets: Sequence[Target], whose: str) -> str:
    """What a check says of places that are not open; "" where there is none."""
    return f"{whose} opens {', '.join(map(str, targets))} to Ray's pods" if targets else ""


def warn_of_closed_storage(manifest: Mapping[str, Any]) -> str:
    """A warning when no policy of k8s/ opens a job's storage; "" when one does. It needs no cluster."""
    targets = list_targets(read_addresses(manifest))
    closed = find_closed(targets, read_shipped_policies())
    return f"warning: {describe_closed(closed, 'no NetworkPolicy of k8s/')}; {REMEDY}" if closed else ""


def classify(host: str, namespace: str) -> HostClass:
    """Where a host is, by its name or address. A name that says nothing counts as public, as most do."""
    address = _as_address(host)
    if address is not None:
        return HostClass.PUBLIC if address.is_global else HostClass.PRIVATE
    if is_in_cluster(host, namespace):
        return HostClass.CLUSTER
    private = host.endswith(PRIVATE_SUFFIXES) or ".vpce." in host
    return HostClass.PRIVATE if private else HostClass.PUBLIC


def _target(url: str, namespace: str, place: HostClass | None, port: int | None) -> Target:
    parts = urlsplit(url)
    host = parts.hostname or ""
    chosen = place or classify(host, namespace)
    labels = host.removesuffix(".cluster.local").removesuffix(".svc").split(".")
    of = labels[1] if chosen is HostClass.CLUSTER and len(labels) > 1 else namespace
    at = port or parts.port or DEFAULT_PORTS.get(parts.scheme, 443)
    if chosen is not HostClass.CLUSTER:
        return Target(host, at, chosen)
    return Target(host, at, chosen, of, in_own_namespace=of == namespace)


def _egress(target: Target) -> dict[str, Any]:
    ports = [{"protocol": "TCP", "port": target.port}]
    address = _as_address(target.host)
    if address is not None:
        to: list[dict[str, Any]] = [{"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}]
    elif target.place is HostClass.CLUSTER:
        to = [{"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: target.namespace}}}]
    elif target.place is HostClass.PRIVATE:
        to = [{"ipBlock": {"cidr": cidr}} for cidr in PRIVATE_RANGES]
    else:
        to = [{"ipBlock": {"cidr": "0.0.0.0/0", "except": list(NOT_PUBLIC)}}]
    return {"to": to, "ports": ports}


def _selects_ray(spec: Mapping[str, Any]) -> bool:
    selector = as_mapping(spec.get("podSelector"))
    labels = as_mapping(selector.get("matchLabels"))
    return not selector.get("matchExpressions") and all(RAY_PODS.get(str(k)) == v for k, v in labels.items())


def _egress_of(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from as_mappings(spec.get("egress"))


def _opens(rule: Mapping[str, Any], target: Target) -> bool:
    ports = as_mappings(rule.get("ports"))
    if ports and not any(_has_port(port, target.port) for port in ports):
        return False
    peers = as_mappings(rule.get("to"))
    return not peers or any(_is_peer(peer, target) for peer in peers)


def _has_port(port: Mapping[str, Any], wanted: int) -> bool:
    first = port.get("port")
    if port.get("protocol", "TCP") != "TCP":
        return False
    return first is None or (isinstance(first, int) and first <= wanted <= int(port.get("endPort", first)))


def _is_peer(peer: Mapping[str, Any], target: Target) -> bool:
    block = as_mapping(peer.get("ipBlock"))
    if block:
        return target.place is not HostClass.CLUSTER and _covers(block, target)
    if target.place is not HostClass.CLUSTER:
        return False
    if "namespaceSelector" not in peer:
        return target.in_own_namespace and _is_service_of(as_mapping(peer.get("podSelector")), target)
    labels = as_mapping(as_mapping(peer.get("namespaceSelector")).get("matchLabels"))
    return not labels or labels.get(NAMESPACE_LABEL) == target.namespace


def _is_service_of(selector: Mapping[str, Any], target: Target) -> bool:
    """Whether a selector of pods may mean those behind a Service: all, or those of its name."""
    labels = as_mapping(selector.get("matchLabels"))
    return not selector or labels.get("app.kubernetes.io/name") == target.host.partition(".")[0]


def _covers(block: Mapping[str, Any], target: Target) -> bool:
    network = ipaddress.ip_network(str(block.get("cidr")), strict=False)
    address = _as_address(target.host)
    if address is not None:
        left_out = [ipaddress.ip_network(str(cidr), strict=False) for cidr in block.get("except", [])]
        return address in network and not any(address in one for one in left_out)
    if target.place is HostClass.PUBLIC:
        return network.prefixlen < 32 and not network.is_private  # some of them, as of S3 in one region
    return (network.is_private and not network.is_link_local) or (network.prefixlen == 0 and not block.get("except"))


def _as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_direct(host: str, no_proxy: str) -> bool:
    """As Python's clients read NO_PROXY: names, and endings of names."""
    named = [entry.strip().lstrip(".").partition(":")[0] for entry in no_proxy.split(",")]
    return any(entry == "*" or host == entry or host.endswith(f".{entry}") for entry in named if entry)
