"""Checks of a Kubernetes cluster: connection, permissions, versions of KubeRay and Kueue, queue, Secrets, image."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from kubernetes import client
from kubernetes.client import ApiException

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.doctor.check import Check, Finding, failed, passed, skipped, warned
from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import REQUEST_TIMEOUT_S, call_api, connect
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.container_image import choose_ray_version, parse_ray_version
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.rules.image_warnings import Doubt, find_doubts, list_images
from medfuncta_dist.submit.rules.manifest_view import QUEUE_LABEL
from medfuncta_dist.submit.rules.network_policy import (
    REMEDY,
    describe_closed,
    find_closed,
    list_targets,
    read_addresses,
    read_shipped_policies,
    render_pack_job,
)
from medfuncta_dist.submit.rules.validate_manifest import validate

MIN_KUBERAY = (1, 7)
OPERATOR_LABELS = {"KubeRay": "kuberay-operator", "Kueue": "kueue"}
"""The label app.kubernetes.io/name of each operator's Deployment, as set by its Helm chart and manifests."""
DEADLINE_S = 10.0
"""For one question to the API server, retries included: a command that works would wait for a minute."""
WRITE = "run `medfuncta-dist manifests medfuncta`, then "
TAGGING = "tag it as `medfuncta-dist image DIR` says"
NEED_NO_SERVER = ("image", "manifest")
NEEDED_PERMISSIONS = (
    *((verb, "ray.io", "rayjobs") for verb in ("create", "get", "list", "watch", "patch", "delete")),
    ("list", "", "pods"),
    ("delete", "", "pods"),
    ("get", "", "pods/log"),
)
"""(verb, group, resource): the requests of submission, which k8s/base/submitter.yaml allows."""


def list_kubernetes_checks(run: RunFile | None, context: str | None) -> list[Check]:
    """Checks of the kubeconfig's cluster, if there is one."""
    try:
        cluster = ClusterChecks(*connect(context), run)
    except ClusterError as error:
        reason = error.what
        return [Check("kubernetes", lambda: skipped(f"{reason}; only submission needs one"))]
    others: dict[str, Callable[[], Finding]] = {
        "permissions": cluster.check_permissions,
        "kuberay": cluster.check_kuberay,
        "kueue": cluster.check_kueue,
        "queue": cluster.check_queue,
        "secrets": cluster.check_secrets,
        "network policy": cluster.check_network_policy,
        "image": cluster.check_image,
        "manifest": cluster.check_manifest,
    }
    return [
        Check("kubernetes", cluster.check_connection),
        *(Check(name, partial(cluster.run_if_reachable, name, check)) for name, check in others.items()),
    ]


@dataclass
class ClusterChecks:
    """Checks of one cluster, for one run file."""

    api: client.ApiClient
    default_namespace: str
    run: RunFile | None
    answers: bool = True
    """Whether the API server answered the first check."""

    @property
    def namespace(self) -> str:
        """The namespace of the run's jobs."""
        return self.run.kubernetes.namespace if self.run else self.default_namespace

    def run_if_reachable(self, name: str, check: Callable[[], Finding]) -> Finding:
        """A check, unless it asks an API server that did not answer: each would wait anew."""
        return check() if self.answers or name in NEED_NO_SERVER else skipped("the API server does not answer")

    def check_connection(self) -> Finding:
        """The API server answers, and the namespace exists."""
        self.answers = False
        version = self._request(client.VersionApi(self.api).get_code, "the API server").git_version
        self.answers = True
        if self._exists(client.CoreV1Api(self.api).read_namespace, self.namespace) is False:
            do = f"{WRITE}`kubectl apply -k medfuncta/k8s/overlays/gpu` (or another); or correct kubernetes.namespace"
            return failed(f"{version}, but there is no namespace {self.namespace}", do)
        return passed(f"{version}, namespace {self.namespace}")

    def check_permissions(self) -> Finding:
        """The permissions that submit, status, logs and cancel need."""
        missing = [
            f"{verb} {resource}"
            for verb, group, resource in NEEDED_PERMISSIONS
            if not self._is_allowed(verb, group, resource)
        ]
        if missing:
            do = "ask for the Role in k8s/base/submitter.yaml, in this namespace"
            return failed(f"not allowed in {self.namespace}: {', '.join(missing)}", do)
        return passed("may create, watch, change and delete RayJobs, and read logs")

    def check_kuberay(self) -> Finding:
        """The resource RayJob, and the operator's version."""
        if not self._has_resource("ray.io", "v1", "rayjobs"):
            return failed("KubeRay is not installed in this cluster", "install KubeRay 1.7 (docs/operations.md)")
        found = self._read_operator_version("KubeRay")
        if found is None:
            return warned("KubeRay is installed; its version cannot be read", "check that it is 1.7 or later")
        if found < MIN_KUBERAY:
            return failed(
                f"KubeRay {_format_version(found)}",
                "upgrade to KubeRay 1.7: older versions refuse token authentication",
            )
        return passed(f"KubeRay {_format_version(found)}")

    def check_kueue(self) -> Finding:
        """The resource LocalQueue, if the run names a queue."""
        if self._queue_name is None:
            return skipped("the run names no queue")
        if not self._has_resource("kueue.x-k8s.io", "v1beta2", "localqueues"):
            do = "install Kueue (docs/operations.md), or remove the overlay kueue and kubernetes.queue"
            return failed("the run names a queue, but Kueue with v1beta2 is not installed in this cluster", do)
        found = self._read_operator_version("Kueue")
        return passed("Kueue" + (f" {_format_version(found)}" if found else "; its version cannot be read"))

    def check_queue(self) -> Finding:
        """The LocalQueue of the run's jobs exists and is active."""
        if self._queue_name is None:
            return skipped("the run names no queue")
        custom: Any = client.CustomObjectsApi(self.api)
        get = partial(
            custom.get_namespaced_custom_object,
            "kueue.x-k8s.io",
            "v1beta2",
            self.namespace,
            "localqueues",
            self._queue_name,
        )
        try:
            found = self._request(get, f"LocalQueue {self._queue_name}")
        except ClusterError as error:
            if getattr(error.__cause__, "status", None) != 404:  # the queue, or without Kueue its kind
                raise
            do = f"{WRITE}`kubectl apply -k medfuncta/k8s/overlays/kueue`, or correct kubernetes.queue"
            return failed(f"there is no LocalQueue {self._queue_name} in {self.namespace}", do)
        conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", [])}
        if conditions.get("Active", {}).get("status") == "False":
            why = conditions["Active"].get("message", "no reason given")
            return failed(
                f"LocalQueue {self._queue_name} is not active: {why}",
                "look at its ClusterQueue: kubectl get clusterqueues",
            )
        waiting = found.get("status", {}).get("pendingWorkloads", 0)
        return self._warn_of_disk(found) or passed(f"LocalQueue {self._queue_name}, {waiting} waiting")

    def _warn_of_disk(self, queue: dict[str, Any]) -> Finding | None:
        """Whether the queue cannot admit pods because they request disk; None where that is not known."""
        name = queue.get("spec", {}).get("clusterQueue")
        if self.run is None or not self.run.kubernetes.ephemeral_storage or not name:
            return None
        custom: Any = client.CustomObjectsApi(self.api)
        get = partial(custom.get_cluster_custom_object, "kueue.x-k8s.io", "v1beta2", "clusterqueues", name)
        try:
            groups = self._request(get, f"ClusterQueue {name}").get("spec", {}).get("resourceGroups", [])
        except ClusterError:
            return None
        if any("ephemeral-storage" in group.get("coveredResources", []) for group in groups):
            return None
        return warned(
            f"the ClusterQueue {name} does not cover ephemeral-storage, which the run's pods request",
            "add it to coveredResources, with a quota, or set kubernetes.ephemeral_storage: false",
        )

    def check_secrets(self) -> Finding:
        """The Secrets, the ConfigMap of CAs and the ServiceAccount of the pods exist. Their contents are not read."""
        if self.run is None:
            return skipped("no run file")
        core: Any = client.CoreV1Api(self.api)
        settings, space = self.run.kubernetes, self.namespace
        named = [s for s in (settings.salt_secret, settings.storage_secret, settings.wandb_secret) if s is not None]
        exists = {f"Secret {name}": self._exists(core.read_namespaced_secret, name, space) for name in named}
        if settings.ca_config_map is not None:
            name = settings.ca_config_map.name
            exists[f"ConfigMap {name}"] = self._exists(core.read_namespaced_config_map, name, space)
        account = settings.service_account
        exists[f"ServiceAccount {account}"] = self._exists(core.read_namespaced_service_account, account, space)
        missing = [name for name, found in exists.items() if found is False]
        if missing:
            do = "create them (docs/operations.md), or name others in the run file's section kubernetes"
            return failed(f"missing in {space}: {', '.join(missing)}", do)
        hidden = [name for name, found in exists.items() if found is None]
        if hidden:
            return warned(
                f"no permission to read: {', '.join(hidden)}", "nothing, if they exist: only the pods need them"
            )
        return passed(", ".join(exists))

    def check_network_policy(self) -> Finding:
        """The policies of the namespace let pods reach the storage; those of k8s/, where they may not be read."""
        if self.run is None:
            return skipped("no run file")
        network: Any = client.NetworkingV1Api(self.api)
        targets, whose = list_targets(read_addresses(render_pack_job(self.run))), "no NetworkPolicy of the cluster"
        try:
            found = self._request(partial(network.list_namespaced_network_policy, self.namespace), "NetworkPolicies")
            plain: Any = self.api.sanitize_for_serialization
            policies = plain(found.items)
        except ClusterError:
            policies, whose = read_shipped_policies(), "no NetworkPolicy of k8s/ (the cluster's may not be read)"
        closed = find_closed(targets, policies)
        if closed:
            return warned(describe_closed(closed, whose), REMEDY)
        return passed(f"{', '.join(map(str, targets))} can be reached" if policies else "there is none: all is open")

    def check_image(self) -> Finding:
        """The images have the needed version of Ray and this package's, as far as their tags show, and a registry."""
        if self.run is None:
            return skipped("no run file")
        images = list_images(self.run, [(stage,) for stage in STAGES])
        wanted, ray = choose_ray_version(self.run.kubernetes), {i.name: parse_ray_version(i.name) for i in images}
        others = [f"{name} has Ray {tagged}" for name, tagged in ray.items() if tagged not in (None, wanted)]
        if others:
            do = "build the image again (medfuncta-dist image DIR), or install the image's version of Ray here"
            return failed(f"{', '.join(others)}, but {wanted} is needed", do)
        unnamed = [
            Doubt(f"the tag of {name} does not name its version of Ray; {wanted} is needed", TAGGING)
            for name, tagged in ray.items()
            if tagged is None
        ]
        doubts = [*unnamed, *(doubt for image in images for doubt in find_doubts(image))]
        if doubts:
            whats, dos = zip(*doubts, strict=True)
            return warned("; ".join(whats), "; ".join(dict.fromkeys(dos)))
        return passed(f"{', '.join(ray)}, Ray {wanted}")

    def check_manifest(self) -> Finding:
        """The manifests of two jobs, one without GPUs and one with the run's GPUs, are valid by all rules."""
        if self.run is None:
            return skipped("no run file")
        base = load_base(self.run.kubernetes.overlays)
        jobs = (Submission(self.run, (stage,), 1, "doctor", "0" * 40) for stage in ("pack", "train"))
        found = [finding for job in jobs for finding in validate(render(job, base))]
        if found:
            return failed("; ".join(dict.fromkeys(f"{f.where}: {f.what}" for f in found)), found[0].do)
        return passed("valid, with token authentication")

    @cached_property
    def _queue_name(self) -> str | None:
        if self.run is None:
            return None
        labels = load_base(self.run.kubernetes.overlays)["metadata"].get("labels", {})
        return self.run.kubernetes.queue or labels.get(QUEUE_LABEL)

    def _request(self, request: Callable[..., Any], where: str) -> Any:
        return call_api(lambda: request(_request_timeout=REQUEST_TIMEOUT_S), where=where, deadline_s=DEADLINE_S)

    def _exists(self, read: Callable[..., Any], *names: str) -> bool | None:
        """Whether an object exists; None if this user may not read it."""
        try:
            self._request(partial(read, *names), " ".join(names))
        except JobMissingError:
            return False
        except ClusterError as error:
            if getattr(error.__cause__, "status", None) == 403:
                return None
            raise
        return True

    def _has_resource(self, group: str, version: str, plural: str) -> bool:
        custom: Any = client.CustomObjectsApi(self.api)
        try:
            found = self._request(partial(custom.get_api_resources, group, version), group)
        except (ClusterError, ApiException):
            return False
        return any(resource.name == plural for resource in found.resources)

    def _is_allowed(self, verb: str, group: str, resource: str) -> bool:
        resource, _, inner = resource.partition("/")
        wanted = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "subresource": inner}
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(**wanted))
        )
        create = client.AuthorizationV1Api(self.api).create_self_subject_access_review
        return bool(self._request(partial(create, review), "permissions").status.allowed)

    def _read_operator_version(self, name: str) -> tuple[int, ...] | None:
        """The version of an operator, from its Deployment's label or image; None if that cannot be read."""
        apps: Any = client.AppsV1Api(self.api)
        label = f"app.kubernetes.io/name={OPERATOR_LABELS[name]}"
        try:
            found = self._request(partial(apps.list_deployment_for_all_namespaces, label_selector=label), name)
        except ClusterError:
            return None
        for deployment in found.items:
            tags = [container.image.rpartition(":")[2] for container in deployment.spec.template.spec.containers]
            labelled = (deployment.metadata.labels or {}).get("app.kubernetes.io/version", "")
            for text in (labelled, *tags):
                if (match := re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)) is not None:
                    return tuple(int(number) for number in match.groups(default="0"))
        return None


def _format_version(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
