"""The options of every command on jobs that say which cluster is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from medfuncta_dist.submit.backends.registry import DEFAULT_BACKEND, BackendName, open_backend

if TYPE_CHECKING:
    from medfuncta_dist.config.run_file import RunFile
    from medfuncta_dist.storage.object_store import ObjectStore
    from medfuncta_dist.submit.backends.backend import Backend
    from medfuncta_dist.submit.status.next_command import Invocation

BackendOption = typer.Option(
    DEFAULT_BACKEND,
    "--backend",
    envvar="MEDFUNCTA_BACKEND",
    help="Where jobs run: Kubernetes with KubeRay, or a Ray cluster that is already running.",
)
BackendOfRunOption = typer.Option(
    None,
    "--backend",
    envvar="MEDFUNCTA_BACKEND",
    help="Where the job is. Default: where the run file's newest job was submitted to; for a name, kubernetes.",
    show_default=False,
)
AddressOption = typer.Option(
    None, "--address", envvar="RAY_API_SERVER_ADDRESS", help="URL of the Ray dashboard, for --backend ray."
)
StorageOption = typer.Option(
    None,
    "--storage",
    envvar="MEDFUNCTA_STORAGE",
    help="The `storage` of the run file: a NAME is looked up there. A run file that is given has its own.",
    show_default=False,
)
ContextOption = typer.Option(None, "--context", help="Context of the kubeconfig. Default: the current one.")
NamespaceOption = typer.Option(
    None, "--namespace", "-n", help="Kubernetes namespace. Default: the run file's if one is given, else the context's."
)


def open_named_backend(
    name: BackendName | None,
    address: str | None,
    context: str | None,
    namespace: str | None,
    target: str = "",
    overrides: list[str] | None = None,
    storage: str | None = None,
) -> Backend:
    """The client of a backend. If ``target``, the command's argument, is a run file, or a name in ``storage``, its
    namespace is the default, and without ``name`` the backend is the one that its newest job was submitted to."""
    from medfuncta_dist.submit.backends.backend import BackendOptions

    known = namespace is not None and name is not None
    run = None if known else _load_target(target, overrides or [], storage)
    if run is None:
        return open_backend(name or DEFAULT_BACKEND, BackendOptions(address, context, namespace))
    options = BackendOptions(address, context, namespace or run.kubernetes.namespace)
    return open_backend(name or _find_backend(run), options)


def _load_target(target: str, overrides: list[str], storage: str | None) -> RunFile | None:
    from medfuncta_dist.config.load import load
    from medfuncta_dist.submit.status.job_target import is_run_file

    if target and is_run_file(target):
        return load(target, overrides)
    if not target or storage is None:
        return None
    from medfuncta_dist.errors import JobMissingError
    from medfuncta_dist.submit.status.stored_runs import load_stored_run

    try:
        return load_stored_run(storage, target, overrides)[0]
    except JobMissingError:
        return None  # a job that waits has no run file in storage yet: the cluster may know it


def build_invocation(target: str, options: list[str], storage: str | None) -> Invocation:
    """What the user typed. Of a run file, the storage is its own."""
    from medfuncta_dist.submit.status.next_command import Invocation

    named = Invocation(target, tuple(options))
    return named if storage is None or named.is_run_file else Invocation(target, tuple(options), storage)


def describe_options(backend: Backend, address: str | None, context: str | None, namespace: str | None) -> list[str]:
    """The options with which another command reaches the same cluster."""
    if backend.name == BackendName.RAY:
        return ["--backend", "ray", *(["--address", str(address)] if address else [])]
    given = (("--context", context), ("--namespace", namespace))
    return [word for option, value in given if value is not None for word in (option, value)]


def find_overrides(run: RunFile, store: ObjectStore) -> tuple[str, ...]:
    """The settings with which a local run was begun. Few commands need what finds them."""
    from medfuncta_dist.run import begun_overrides

    return begun_overrides.find_overrides(run, store)


def _find_backend(run: RunFile) -> BackendName:
    """The backend that a run's newest job was submitted to; the default for a run without jobs."""
    from medfuncta_dist.errors import MedfunctaError
    from medfuncta_dist.storage.object_store import ObjectStore
    from medfuncta_dist.submit.status.job_records import read_job_records

    try:
        records = read_job_records(ObjectStore(run.storage), run.name)
    except MedfunctaError:
        return DEFAULT_BACKEND  # storage that only the cluster reaches: the cluster may still know the job
    return BackendName(records[-1].backend) if records else DEFAULT_BACKEND
