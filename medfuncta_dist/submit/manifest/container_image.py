"""The image of a job, and the version of Ray in it. The installed version is read from the package's metadata, because
importing Ray takes a second."""

from __future__ import annotations

import re
from importlib.metadata import version

from medfuncta_dist.config.sections.kubernetes_section import Kubernetes
from medfuncta_dist.version import __version__

RAY_IN_TAG = re.compile(r"(?:^|[-_.])ray[-_]?v?(\d+\.\d+\.\d+)")
"""Ray's version in a tag such as ``0.1.0-ray2.60.0-cpu``."""
OFFICIAL_REPOSITORY = re.compile(r"(?:^|/)rayproject/ray[a-z-]*$")
"""Ray's own repositories, whose tags begin with the version: ``rayproject/ray:2.60.0-py311``."""


def choose_ray_version(kubernetes: Kubernetes) -> str:
    """The version of Ray that the image must have: the run file's, else the installed one."""
    return kubernetes.ray_version or version("ray")


def choose_image(kubernetes: Kubernetes, *, gpus: bool) -> str:
    """The image of a job with or without GPUs; by default the tag that cluster/Dockerfile gives it."""
    if not gpus and kubernetes.cpu_image is not None:
        return kubernetes.cpu_image
    if kubernetes.image is not None:
        return kubernetes.image
    return f"medfuncta-dist:{__version__}-ray{choose_ray_version(kubernetes)}{'' if gpus else '-cpu'}"


def parse_ray_version(name: str) -> str | None:
    """The version of Ray in the tag of an image; None if the tag names none (``latest``, a digest)."""
    repository, _, tag = name.partition("@")[0].rpartition(":")
    if not repository or "/" in tag:  # no tag: the colon belongs to a registry's port
        return None
    found = RAY_IN_TAG.search(tag) or (
        re.match(r"(\d+\.\d+\.\d+)", tag) if OFFICIAL_REPOSITORY.search(repository) else None
    )
    return found.group(1) if found else None
