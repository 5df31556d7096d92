"""The backends by name. A new backend is a class (see ``backend.py``), and its name and class here."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

from medfuncta_dist.errors import RunFileError

if TYPE_CHECKING:
    from medfuncta_dist.submit.backends.backend import Backend, BackendOptions


class BackendName(StrEnum):
    """What ``--backend`` accepts."""

    KUBERNETES = "kubernetes"
    RAY = "ray"


BACKENDS = {
    BackendName.KUBERNETES: "medfuncta_dist.submit.backends.kubernetes.kubernetes_jobs:KubernetesJobs",
    BackendName.RAY: "medfuncta_dist.submit.backends.ray_jobs:RayJobs",
}
"""Module and class of each. A module is imported when its backend is opened, because the clients import slowly."""
DEFAULT_BACKEND = BackendName.KUBERNETES


def parse_backend_name(text: str) -> BackendName:
    """The backend of this name. RunFileError if there is none."""
    if text not in set(BackendName):
        raise RunFileError(f"there is no backend {text!r}", do=f"choose from {', '.join(BackendName)}")
    return BackendName(text)


def open_backend(name: BackendName, options: BackendOptions) -> Backend:
    """The client of a backend. It connects with its first request."""
    module, _, class_name = BACKENDS[name].partition(":")
    backend: Backend = getattr(import_module(module), class_name).from_options(options)
    return backend
