"""This tool's security rules: the restricted pod security standard, no access to the head without a token, and no
secrets in a manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from medfuncta_dist.submit.manifest.runtime_env import read_environment
from medfuncta_dist.submit.rules.manifest_view import Part, RayJob, as_mapping, as_mappings
from medfuncta_dist.submit.rules.rule import Breaches, RuleBook

RULES = RuleBook()
ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
"""Types of volumes that the restricted standard allows."""
SECRET_NAME = re.compile(r"(?i)(secret|token|passw|credential|salt|(access|api|private|session)_?key)")
SECRET_TEXT = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/\s:@]+:[^/\s@]+@")
"""AWS access key ids, private keys, and passwords in URLs."""


@RULES.rule("token-auth", "set authOptions.mode to token, as in k8s/base/rayjob.yaml")
def _check_token(job: RayJob) -> Breaches:
    if job.cluster and job.auth_options.get("mode") != "token":
        yield (
            "spec.rayClusterSpec.authOptions",
            "without a token, anyone who can reach the head can run code there (CVE-2023-48022)",
        )


@RULES.rule("private-head", "leave serviceType at ClusterIP and enableIngress at false; use kubectl port-forward")
def _check_private(job: RayJob) -> Breaches:
    if job.head.get("serviceType", "ClusterIP") != "ClusterIP":
        yield (
            "spec.rayClusterSpec.headGroupSpec.serviceType",
            f"{job.head['serviceType']} exposes the head outside the cluster",
        )
    if job.head.get("enableIngress"):
        yield "spec.rayClusterSpec.headGroupSpec.enableIngress", "an ingress exposes the head outside the cluster"


@RULES.rule("pod-host", "leave host namespaces, host ports and hostPath volumes out")
def _check_host(job: RayJob) -> Breaches:
    for where, pod in job.pods():
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(key):
                yield f"{where}.{key}", "the restricted standard forbids host namespaces"
        for volume in as_mappings(pod.get("volumes")):
            kinds = set(volume) - {"name"} - ALLOWED_VOLUMES
            if kinds:
                yield f"{where}.volumes[{volume.get('name')}]", f"the restricted standard forbids {min(kinds)}"
    for where, container in job.containers():
        if any(port.get("hostPort") for port in as_mappings(container.get("ports"))):
            yield f"{where}.ports", "the restricted standard forbids host ports"


@RULES.rule("pod-user", "set runAsNonRoot and seccompProfile RuntimeDefault in the pod's securityContext")
def _check_user(job: RayJob) -> Breaches:
    for where, pod in job.pods():
        for inner, security in _iterate_security_contexts(where, pod):
            if security.get("runAsNonRoot") is not True or security.get("runAsUser") == 0:
                yield f"{inner}.securityContext", "may run as root"
            if as_mapping(security.get("seccompProfile")).get("type") not in ("RuntimeDefault", "Localhost"):
                yield f"{inner}.securityContext", "has no seccomp profile"


@RULES.rule("pod-privileges", "set allowPrivilegeEscalation false and capabilities drop [ALL] for the container")
def _check_privileges(job: RayJob) -> Breaches:
    for where, container in job.containers():
        security = as_mapping(container.get("securityContext"))
        capabilities = as_mapping(security.get("capabilities"))
        if security.get("privileged") or security.get("allowPrivilegeEscalation") is not False:
            yield f"{where}.securityContext", "may gain privileges"
        if "ALL" not in (capabilities.get("drop") or []) or set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
            yield f"{where}.securityContext", "keeps capabilities"


@RULES.rule(
    "no-secrets", "put it into a Secret, and name that in kubernetes.storage_secret, salt_secret or wandb_secret"
)
def _check_secrets(job: RayJob) -> Breaches:
    for where, name in _iterate_literal_variables(job):
        if SECRET_NAME.search(name):
            yield where, f"{name} has its value in the manifest"
    found = SECRET_TEXT.search(json.dumps(job.manifest, default=str))
    if found:
        yield "the whole manifest", f"contains what looks like a credential ({found.group()[:4]}...)"


def _iterate_security_contexts(where: str, pod: Part) -> Iterator[tuple[str, Part]]:
    """(where, security context) of each container, including what it inherits from its pod."""
    shared = as_mapping(pod.get("securityContext"))
    for kind in ("containers", "initContainers"):
        for container in as_mappings(pod.get(kind)):
            yield f"{where}.{kind}[{container.get('name')}]", {**shared, **as_mapping(container.get("securityContext"))}


def _iterate_literal_variables(job: RayJob) -> Iterator[tuple[str, str]]:
    """(where, name) of each environment variable whose value is in the manifest."""
    for where, container in job.containers():
        for item in as_mappings(container.get("env")):
            if item.get("value"):
                yield f"{where}.env", str(item.get("name"))
    for name in read_environment(job.manifest):
        yield "spec.runtimeEnvYAML", str(name)
