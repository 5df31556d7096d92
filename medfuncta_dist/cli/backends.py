"""Where jobs go: the options that all commands on jobs share, and the client that they mean."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from medfuncta_dist.submit.backends.backend import Backend


class Where(StrEnum):
    """Kinds of clusters."""

    KUBERNETES = "kubernetes"
    RAY = "ray"


BackendOption = typer.Option(
    Where.KUBERNETES, "--backend", envvar="MEDFUNCTA_BACKEND", help="KubeRay, or a Ray cluster that runs already."
)
AddressOption = typer.Option(
    None, "--address", envvar="RAY_API_SERVER_ADDRESS", help="Ray's dashboard, for --backend ray."
)
ContextOption = typer.Option(None, "--context", help="Context of the kubeconfig.")
NamespaceOption = typer.Option(
    None, "--namespace", "-n", help="Namespace. Default: the run file's, where one is given; else the kubeconfig's."
)


def opened(
    where: Where,
    address: str | None,
    context: str | None,
    namespace: str | None,
    what: str = "",
    sets: list[str] | None = None,
) -> Backend:
    """The client. ``what`` is the command's argument: a run file says the namespace."""
    if where is Where.RAY:
        from medfuncta_dist.submit.backends.ray_jobs import RayJobs

        return RayJobs(address)
    from medfuncta_dist.config.load import load
    from medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs import KubernetesJobs

    if namespace is None and what.endswith((".yaml", ".yml")):
        namespace = load(what, sets or ()).kubernetes.namespace
    return KubernetesJobs(namespace, context=context)
