"""The API server: how it is found, which of its answers may pass, and what the others mean in words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential_jitter

from medfuncta_dist.config.kubernetes import Kubernetes
from medfuncta_dist.errors import ClusterError, JobMissingError

T = TypeVar("T")

DEADLINE_S = 60.0
"""Of one call, retries included: a person waits for it."""
REQUEST_TIMEOUT_S = 20.0
"""Of one request: an API server that says nothing for so long is not there."""
TRANSIENT_STATUSES = {429, 500, 502, 503, 504}
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def connect(context: str | None = None) -> tuple[client.ApiClient, str]:
    """A client and the namespace it starts in: the pod's own inside a cluster, else the kubeconfig's.

    ClusterError when there is neither. A kubeconfig that names no namespace means the one that k8s/base makes.
    """
    settings = client.Configuration()
    # One layer owns retries: this one, which knows what may be sent twice.
    settings.retries = False
    try:
        if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists():
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            return client.ApiClient(settings), (SERVICE_ACCOUNT / "namespace").read_text().strip()
        # Named here: the client's own default is what KUBECONFIG was when it was imported.
        file = os.environ.get("KUBECONFIG")
        config.load_kube_config(file, context, settings)  # type: ignore[no-untyped-call]
        return client.ApiClient(settings), _read_kubeconfig_namespace(file, context)
    except (ConfigException, OSError) as error:
        raise ClusterError(
            f"there is no way to a Kubernetes cluster: {error}",
            where=os.environ.get("KUBECONFIG", "~/.kube/config"),
            do="set KUBECONFIG, or name a context of it with --context; `kubectl get rayjobs` shows whether it works",
        ) from error


def _read_kubeconfig_namespace(file: str | None, context: str | None) -> str:
    contexts, active = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
    chosen = next((c for c in contexts if c["name"] == context), active)
    return str(chosen["context"].get("namespace") or Kubernetes().namespace)


def call_api(request: Callable[[], T], *, where: str, deadline_s: float = DEADLINE_S) -> T:
    """Make a request again while its answer may pass, as long and as late as the server says. ClusterError in words.

    An ApiException of 409 or 410 is handed on: whoever called knows what it means.
    """
    retrying = Retrying(
        retry=retry_if_exception(_is_transient), stop=stop_before_delay(deadline_s), wait=_choose_wait, reraise=True
    )
    try:
        return retrying(request)
    except ApiException as error:
        if error.status in (409, 410):
            raise
        raise explain_api_error(error, where) from error
    except urllib3.exceptions.HTTPError as error:
        raise ClusterError(
            f"the API server does not answer: {type(error).__name__}",
            where=where,
            do="check the network and the server's address in the kubeconfig, then run the same command again",
        ) from error


def explain_api_error(error: ApiException, where: str) -> ClusterError:
    """What an answer means, and what to do."""
    said = read_server_message(error)
    match error.status:
        case 401:
            what, do = "the API server does not know who is asking (401)", "log in again: the credentials are over"
        case 403:
            what, do = f"not allowed (403): {said}", "ask for this permission: k8s/base/submitter.yaml lists them all"
        case 404 if "could not find the requested resource" in said or "page not found" in said:
            what, do = "this cluster has no RayJobs (404)", "install KubeRay 1.7; `medfuncta-dist doctor` checks it"
        case 404:
            return JobMissingError(f"not found (404): {said}", where=where, do="`medfuncta-dist list` shows what is")
        case 400 | 422:
            what, do = f"the API server refuses this manifest ({error.status}): {said}", "correct what it names"
        case status if status in TRANSIENT_STATUSES:
            what, do = f"the API server is not well ({status}): {said}", "run the same command again in a while"
        case status:
            what, do = f"the API server answered {status}: {said}", "see what `kubectl` says of it"
    return ClusterError(what, where=where, do=do)


def read_server_message(error: ApiException) -> str:
    """The server's own words: the message of its Status object."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason or error.body or "no reason given")


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, ApiException):
        return error.status in TRANSIENT_STATUSES
    return isinstance(error, urllib3.exceptions.HTTPError)


def _choose_wait(state: RetryCallState) -> float:
    """What the server asks for, where it asks; else longer each time."""
    error: Any = state.outcome.exception() if state.outcome is not None else None
    asked = (getattr(error, "headers", None) or {}).get("Retry-After", "")
    return float(asked) if str(asked).isdigit() else wait_exponential_jitter(initial=0.3, max=8.0, jitter=0.3)(state)
