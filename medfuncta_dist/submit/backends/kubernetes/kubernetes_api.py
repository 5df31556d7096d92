"""Requests to the Kubernetes API server: how it is found, which errors are transient, and what the others mean."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential_jitter

from medfuncta_dist.config.sections.kubernetes_section import Kubernetes
from medfuncta_dist.errors import ClusterError, JobMissingError
from medfuncta_dist.storage.connection_faults import causes, proxy_status

T = TypeVar("T")

DEADLINE_S = 60.0
"""For one call with its retries: a user is waiting."""
REQUEST_TIMEOUT_S = 20.0
"""For one request: an API server that is silent for so long is not reachable."""
TRANSIENT_STATUSES = {429, 500, 502, 503, 504}
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def connect(context: str | None = None) -> tuple[client.ApiClient, str]:
    """A client and its namespace: inside a cluster the pod's own, else those of the kubeconfig.

    ClusterError when there is neither. If the kubeconfig names no namespace, it is the one that k8s/base creates.
    """
    settings = client.Configuration()
    # `call_api` makes the retries, because it knows which requests may be sent twice.
    settings.retries = False
    try:
        if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists():
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            return client.ApiClient(settings), (SERVICE_ACCOUNT / "namespace").read_text().strip()
        # The client's own default is the value of KUBECONFIG when the client was imported.
        file = os.environ.get("KUBECONFIG")
        config.load_kube_config(file, context, settings)  # type: ignore[no-untyped-call]
        return client.ApiClient(settings), _read_kubeconfig_namespace(file, context)
    except (ConfigException, OSError) as error:
        raise ClusterError(
            f"no Kubernetes cluster is configured: {error}",
            where=os.environ.get("KUBECONFIG", "~/.kube/config"),
            do="set KUBECONFIG, or choose a context with --context; `kubectl get rayjobs` shows whether it works. (A "
            "run begun on this machine needs none: `medfuncta-dist status RUN.yaml` shows how it goes on.)",
        ) from error


def _read_kubeconfig_namespace(file: str | None, context: str | None) -> str:
    contexts, active = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
    chosen = next((c for c in contexts if c["name"] == context), active)
    return str(chosen["context"].get("namespace") or Kubernetes().namespace)


def call_api(request: Callable[[], T], *, where: str, deadline_s: float = DEADLINE_S) -> T:
    """Make a request, and repeat it while its errors are transient, after the time that the server asks for.

    Errors become ClusterErrors. An ApiException with status 409 or 410 is raised as it is: its meaning is the caller's.
    """
    retrying = Retrying(
        retry=retry_if_exception(is_transient), stop=stop_before_delay(deadline_s), wait=_choose_wait, reraise=True
    )
    try:
        return retrying(request)
    except ApiException as error:
        if error.status in (409, 410):
            raise
        cut = next(filter(_is_cut, causes(error)), None)
        found = _explain_setting(error, where) or (cut and _explain_silence(cut, where))
        raise found or explain_api_error(error, where) from error
    except urllib3.exceptions.HTTPError as error:
        raise _explain_setting(error, where) or _explain_silence(error, where) from error


def _explain_silence(error: BaseException, where: str) -> ClusterError:
    do = "check the network and the server's address in the kubeconfig, then run the same command again"
    return ClusterError(f"the API server does not answer: {type(error).__name__}", where=where, do=do)


def explain_api_error(error: ApiException, where: str) -> ClusterError:
    """The ClusterError for an error status: what it means, and what to do."""
    message = read_server_message(error)
    match error.status:
        case 401:
            what, do = "the API server does not accept the credentials (401)", "log in again: they may have expired"
        case 403:
            what, do = (
                f"not allowed (403): {message}",
                "ask for this permission (all: k8s/base/submitter.yaml)",
            )
        case 404 if is_kind_missing(error):
            what, do = "this cluster has no RayJobs (404)", "install KubeRay 1.7; `medfuncta-dist doctor` checks it"
        case 404:
            return JobMissingError(
                f"not found (404): {message}", where=where, do="list the jobs: `medfuncta-dist list`"
            )
        case 400 | 422:
            what, do = (
                f"the API server refused this manifest ({error.status}): {message}",
                "correct what it names",
            )
        case status if status in TRANSIENT_STATUSES:
            what, do = f"the API server failed ({status}): {message}", "run the same command again in a few minutes"
        case status:
            what, do = f"the API server answered {status}: {message}", "try the same with `kubectl`"
    return ClusterError(what, where=where, do=do)


def is_kind_missing(error: ApiException) -> bool:
    """Whether a 404 is about the kind and not about an object: what serves a kind says that in a Status, and where
    nothing does, the API server answers in plain text."""
    text = f"{read_server_message(error)} {error.body}"
    return "could not find the requested resource" in text or "page not found" in text


def read_server_message(error: ApiException) -> str:
    """The server's own message, from its Status object."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason or error.body or "no reason given")


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, ApiException):
        return error.status in TRANSIENT_STATUSES or any(map(_is_cut, causes(error)))
    return isinstance(error, urllib3.exceptions.HTTPError) and _explain_setting(error, "") is None


def _explain_setting(error: BaseException, where: str) -> ClusterError | None:
    """The error where waiting does not help: a certificate, TLS or a proxy. The client wraps some in ApiExceptions."""
    chain = list(causes(error))
    refused = next((status for cause in chain if (status := proxy_status(cause))), None)
    if refused is not None:
        do = "correct HTTPS_PROXY, or name the API server's host in NO_PROXY"
        return ClusterError(f"the proxy does not lead to the API server ({refused})", where=where, do=do)
    for cause in chain:
        if _is_cut(cause):
            return None
        if isinstance(cause, ssl.SSLCertVerificationError):
            what = f"the API server's certificate is not accepted: {cause.verify_message}"
            do = "set certificate-authority in the kubeconfig, or SSL_CERT_FILE, to a PEM file with its CA"
            return ClusterError(what, where=where, do=do)
        if isinstance(cause, ssl.SSLError) and (reason := _read_reason(cause)):
            do = "check the server's address in the kubeconfig: it must be a port for https://"
            return ClusterError(f"the API server does not speak TLS as expected: {reason}", where=where, do=do)
    return None


def _is_cut(cause: BaseException) -> bool:
    """A connection that was closed while TLS began: a load balancer does so while its API server starts anew."""
    return isinstance(cause, ssl.SSLError) and "EOF" in (_read_reason(cause) or str(cause))


def _read_reason(error: ssl.SSLError) -> str | None:
    """OpenSSL's reason. An error that Python itself has raised, as for a connection that was cut, has no such field."""
    return getattr(error, "reason", None)


def _choose_wait(state: RetryCallState) -> float:
    """Seconds until the next try: as the server asks (Retry-After), else longer each time."""
    error: Any = state.outcome.exception() if state.outcome is not None else None
    asked = (getattr(error, "headers", None) or {}).get("Retry-After", "")
    return float(asked) if str(asked).isdigit() else wait_exponential_jitter(initial=0.3, max=8.0, jitter=0.3)(state)
