"""The options of every command on jobs that say which cluster is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from medfuncta_dist.submit.backends.registry import DEFAULT_BACKEND, BackendName, open_backend

if TYPE_CHECKING:
    from medfuncta_dist.submit.backends.backend import Backend

BackendOption = typer.Option(
    DEFAULT_BACKEND,
    "--backend",
    envvar="MEDFUNCTA_BACKEND",
    help="Where jobs run: Kubernetes with KubeRay, or a Ray cluster that is already running.",
)
AddressOption = typer.Option(
    None, "--address", envvar="RAY_API_SERVER_ADDRESS", help="URL of the Ray dashboard, for --backend ray."
)
ContextOption = typer.Option(None, "--context", help="Context of the kubeconfig. Default: the current one.")
NamespaceOption = typer.Option(
    None, "--namespace", "-n", help="Kubernetes namespace. Default: the run file's if one is given, else the context's."
)


def open_named_backend(
    name: BackendName,
    address: str | None,
    context: str | None,
    namespace: str | None,
    target: str = "",
    overrides: list[str] | None = None,
) -> Backend:
    """The client of a backend. If ``target``, the command's argument, is a run file, its namespace is the default."""
    from medfuncta_dist.config.load import load
    from medfuncta_dist.submit.backends.backend import BackendOptions

    if namespace is None and target.endswith((".yaml", ".yml")):
        namespace = load(target, overrides or ()).kubernetes.namespace
    return open_backend(name, BackendOptions(address, context, namespace))
