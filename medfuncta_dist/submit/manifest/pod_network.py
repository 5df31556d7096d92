"""What pods trust and what they go through: the CAs of a ConfigMap, and a proxy. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from medfuncta_dist.config.sections.kubernetes_section import Kubernetes, Proxy

CA_FOLDER = "/etc/medfuncta/ca"
CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
"""Of the AWS tools, of Python's requests, and of OpenSSL and Go, in which Weights & Biases is written."""
DIRECT = (
    "localhost", "127.0.0.1", "::1",
    # Ray's head and other Services, by each form of their names; the API server, which the autoscaler asks.
    ".svc", ".cluster.local", "kubernetes.default",
    # Where clouds give out credentials: EC2 and GCE, ECS, EKS Pod Identity. They answer on the node alone.
    "169.254.169.254", "169.254.170.2", "169.254.170.23",
)  # fmt: skip
"""Hosts that no proxy leads to. Ray's nodes reach each other by address over gRPC, which ignores these variables."""
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def network_variables(kubernetes: Kubernetes) -> dict[str, str]:
    """The environment variables of all pods about CAs and the proxy."""
    found: dict[str, str] = {}
    if kubernetes.ca_config_map is not None:
        found |= dict.fromkeys(CA_VARIABLES, f"{CA_FOLDER}/{kubernetes.ca_config_map.key}")
    if kubernetes.proxy is not None:
        found |= _proxy_variables(kubernetes.proxy, kubernetes)
    return found


def build_ca_volumes(kubernetes: Kubernetes) -> list[dict[str, Any]]:
    """The volume of the ConfigMap; none where none is named."""
    named = kubernetes.ca_config_map
    if named is None:
        return []
    items = [{"key": named.key, "path": named.key}]  # no other key of it gets into the pod
    return [{"name": "ca", "configMap": {"name": named.name, "items": items}}]


def build_ca_mounts(kubernetes: Kubernetes) -> list[dict[str, Any]]:
    """Where that volume is mounted. No ``subPath``: a renewed ConfigMap then reaches running pods."""
    return [{"name": "ca", "mountPath": CA_FOLDER, "readOnly": True}] if kubernetes.ca_config_map else []


def choose_endpoint(environment: dict[str, str]) -> str | None:
    """The address of S3 that pods use; None for that of AWS."""
    return next((environment[name] for name in ENDPOINT_VARIABLES if environment.get(name)), None)


def is_in_cluster(host: str, namespace: str) -> bool:
    """Whether a host's name is a Service's, in full or shortened: ``minio``, ``minio.store.svc``, ``s3.NAMESPACE``."""
    labels = host.rstrip(".").split(".")
    return len(labels) == 1 or labels[-1] == "svc" or labels[-2:] == ["cluster", "local"] or labels[1:] == [namespace]


def _proxy_variables(proxy: Proxy, kubernetes: Kubernetes) -> dict[str, str]:
    host = urlsplit(choose_endpoint(kubernetes.environment) or "").hostname or ""
    own = [host] if host and is_in_cluster(host, kubernetes.namespace) else []
    direct = ",".join(dict.fromkeys([*DIRECT, f".{kubernetes.namespace}", *own, *proxy.no_proxy]))
    named = {"HTTPS_PROXY": proxy.https, "HTTP_PROXY": proxy.http, "NO_PROXY": direct}
    given = {name: value for name, value in named.items() if value is not None}
    # Programs differ in which they read; curl and wget, with which KubeRay looks after a pod, read lower case.
    return given | {name.lower(): value for name, value in given.items()}
