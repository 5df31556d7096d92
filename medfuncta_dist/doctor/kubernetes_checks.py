"""A Kubernetes cluster: reached, allowed; KubeRay and Kueue in versions that fit; queue and Secrets in place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from kubernetes import client
from kubernetes.client import ApiException

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.doctor.check import Check, Finding, failed, passed, skipped, warned
from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.submit.backends.kubernetes.kubernetes_api import REQUEST_TIMEOUT_S, call_api, connect
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.container_image import choose_image, choose_ray_version, parse_ray_version
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.rules.validate_manifest import validate

MIN_KUBERAY = (1, 7)
OPERATOR_LABELS = {"KubeRay": "kuberay-operator", "Kueue": "kueue"}
"""Value of the label app.kubernetes.io/name of each operator's Deployment, as its Helm chart and manifests set it."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
NEEDED_PERMISSIONS = (
    *((verb, "ray.io", "rayjobs") for verb in ("create", "get", "list", "watch", "patch", "delete")),
    ("list", "", "pods"),
    ("delete", "", "pods"),
    ("get", "", "pods/log"),
)
"""(verb, group, resource): what the clients of submission call, as k8s/base/submitter.yaml allows it."""


def kubernetes_checks(run: RunFile | None, context: str | None) -> list[Check]:
    """Of the cluster that the kubeconfig names, if there is one."""
    try:
        cluster = ClusterChecks(*connect(context), run)
    except ClusterError as error:
        reason = error.what
        return [Check("kubernetes", lambda: skipped(f"{reason}: only submission needs one"))]
    return [
        Check("kubernetes", cluster.reached),
        Check("permissions", cluster.allowed),
        Check("kuberay", cluster.kuberay),
        Check("kueue", cluster.kueue),
        Check("queue", cluster.queue),
        Check("secrets", cluster.secrets),
        Check("image", cluster.image),
        Check("manifest", cluster.manifest),
    ]


@dataclass
class ClusterChecks:
    """One cluster as a run file wants it."""

    api: client.ApiClient
    default_namespace: str
    run: RunFile | None

    @property
    def namespace(self) -> str:
        """Where the run's jobs go."""
        return self.run.kubernetes.namespace if self.run else self.default_namespace

    def reached(self) -> Finding:
        """The API server answers, and the namespace is there."""
        version = self._ask(client.VersionApi(self.api).get_code, "the API server").git_version
        if self._there(client.CoreV1Api(self.api).read_namespace, self.namespace) is False:
            do = "kubectl apply -k k8s/overlays/gpu (or another overlay) makes it; or correct kubernetes.namespace"
            return failed(f"{version}, but there is no namespace {self.namespace}", do)
        return passed(f"{version}, namespace {self.namespace}")

    def allowed(self) -> Finding:
        """What submission, status and cancel need."""
        missing = [
            f"{verb} {resource}" for verb, group, resource in NEEDED_PERMISSIONS if not self._may(verb, group, resource)
        ]
        if missing:
            do = "ask for the Role of k8s/base/submitter.yaml in this namespace"
            return failed(f"not allowed in {self.namespace}: {', '.join(missing)}", do)
        return passed("RayJobs may be made, watched, changed and deleted; logs may be read")

    def kuberay(self) -> Finding:
        """Its resource, and its operator's version."""
        if not self._has("ray.io", "v1", "rayjobs"):
            return failed("there are no RayJobs in this cluster", "install KubeRay 1.7 (docs/operations.md)")
        found = self._operator("KubeRay")
        if found is None:
            return warned("RayJobs are there; the operator's version can not be seen", "see that it is 1.7 or later")
        if found < MIN_KUBERAY:
            return failed(
                f"KubeRay {_format_version(found)}", "upgrade to KubeRay 1.7: older ones refuse token authentication"
            )
        return passed(f"KubeRay {_format_version(found)}")

    def kueue(self) -> Finding:
        """Its resource, where the run names a queue."""
        if self._queue is None:
            return skipped("the run names no queue")
        if not self._has("kueue.x-k8s.io", "v1beta2", "localqueues"):
            do = "install Kueue (docs/operations.md), or leave the overlay kueue and kubernetes.queue out"
            return failed("the run names a queue, but Kueue's v1beta2 is not in this cluster", do)
        found = self._operator("Kueue")
        return passed("Kueue" + (f" {_format_version(found)}" if found else ", its version can not be seen"))

    def queue(self) -> Finding:
        """The LocalQueue that jobs wait in, and whether it is open."""
        if self._queue is None:
            return skipped("the run names no queue")
        custom: Any = client.CustomObjectsApi(self.api)
        get = partial(
            custom.get_namespaced_custom_object, "kueue.x-k8s.io", "v1beta2", self.namespace, "localqueues", self._queue
        )
        try:
            found = self._ask(get, f"LocalQueue {self._queue}")
        except JobMissingError:
            do = "kubectl apply -k k8s/overlays/kueue, or correct kubernetes.queue"
            return failed(f"there is no LocalQueue {self._queue} in {self.namespace}", do)
        conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", [])}
        if conditions.get("Active", {}).get("status") == "False":
            why = conditions["Active"].get("message", "no reason given")
            return failed(
                f"LocalQueue {self._queue} is closed: {why}", "see its ClusterQueue: kubectl get clusterqueues"
            )
        waiting = found.get("status", {}).get("pendingWorkloads", 0)
        return passed(f"LocalQueue {self._queue}, {waiting} waiting")

    def secrets(self) -> Finding:
        """The Secrets and the ServiceAccount that pods name. Their contents are not read."""
        if self.run is None:
            return skipped("no run file")
        core: Any = client.CoreV1Api(self.api)
        settings, space = self.run.kubernetes, self.namespace
        named = [s for s in (settings.salt_secret, settings.storage_secret, settings.wandb_secret) if s is not None]
        there = {f"Secret {name}": self._there(core.read_namespaced_secret, name, space) for name in named}
        account = settings.service_account
        there[f"ServiceAccount {account}"] = self._there(core.read_namespaced_service_account, account, space)
        missing = [name for name, found in there.items() if found is False]
        if missing:
            do = "make them (docs/operations.md), or name others in the run file's section kubernetes"
            return failed(f"missing in {space}: {', '.join(missing)}", do)
        hidden = [name for name, found in there.items() if found is None]
        if hidden:
            return warned(
                f"may not be seen: {', '.join(hidden)}", "nothing: pods need them, submitters need not read them"
            )
        return passed(", ".join(there))

    def image(self) -> Finding:
        """The image's Ray is the submitter's, as far as its tag tells."""
        if self.run is None:
            return skipped("no run file")
        name = choose_image(self.run.kubernetes, gpus=self.run.cluster.gpus_per_worker > 0)
        wanted, tagged = choose_ray_version(self.run.kubernetes), parse_ray_version(name)
        if tagged is None:
            return warned(
                f"{name} does not say which Ray it holds, {wanted} is needed", "tag it as cluster/README.md says"
            )
        if tagged != wanted:
            return failed(
                f"{name} holds Ray {tagged}, {wanted} is needed", "build the image again, or install that Ray here"
            )
        if "/" not in name:
            do = "push it, and set kubernetes.image to its name there; nothing, if it was loaded into the nodes"
            return warned(f"{name} names no registry: nodes can not pull it", do)
        return passed(f"{name}, Ray {tagged}")

    def manifest(self) -> Finding:
        """What would be submitted is valid, by every rule that can be asked offline; and a token guards it.

        Of two jobs: one without GPUs, and one with those that the run has.
        """
        if self.run is None:
            return skipped("no run file")
        base = load_base(self.run.kubernetes.overlays)
        jobs = (Submission(self.run, (stage,), 1, "doctor", "0" * 40) for stage in ("pack", "train"))
        found = [finding for job in jobs for finding in validate(render(job, base))]
        if found:
            return failed("; ".join(dict.fromkeys(f"{f.where}: {f.what}" for f in found)), found[0].do)
        return passed("valid, with token authentication")

    @cached_property
    def _queue(self) -> str | None:
        if self.run is None:
            return None
        labels = load_base(self.run.kubernetes.overlays)["metadata"].get("labels", {})
        return self.run.kubernetes.queue or labels.get(QUEUE_LABEL)

    def _ask(self, request: Callable[..., Any], where: str) -> Any:
        return call_api(lambda: request(_request_timeout=REQUEST_TIMEOUT_S), where=where)

    def _there(self, read: Callable[..., Any], *names: str) -> bool | None:
        """Whether an object exists; None where this user may not see it."""
        try:
            self._ask(partial(read, *names), " ".join(names))
        except JobMissingError:
            return False
        except ClusterError as error:
            if getattr(error.__cause__, "status", None) == 403:
                return None
            raise
        return True

    def _has(self, group: str, version: str, plural: str) -> bool:
        custom: Any = client.CustomObjectsApi(self.api)
        try:
            found = self._ask(partial(custom.get_api_resources, group, version), group)
        except (ClusterError, ApiException):
            return False
        return any(resource.name == plural for resource in found.resources)

    def _may(self, verb: str, group: str, resource: str) -> bool:
        resource, _, inner = resource.partition("/")
        wanted = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "subresource": inner}
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(**wanted))
        )
        create = client.AuthorizationV1Api(self.api).create_self_subject_access_review
        return bool(self._ask(partial(create, review), "permissions").status.allowed)

    def _operator(self, name: str) -> tuple[int, ...] | None:
        """Version of an operator, by its Deployment's label or image; None where it may not be seen."""
        apps: Any = client.AppsV1Api(self.api)
        label = f"app.kubernetes.io/name={OPERATOR_LABELS[name]}"
        try:
            found = self._ask(partial(apps.list_deployment_for_all_namespaces, label_selector=label), name)
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
