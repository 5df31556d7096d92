"""The image of a job, and the version of Ray in it. The installed version is read from the package's metadata, because
importing Ray takes a second."""

from __future__ import annotations

import re
from importlib.metadata import version

from medfuncta_dist.config.sections.kubernetes_section import Kubernetes
from medfuncta_dist.version import __version__

RAY_IN_TAG = re.compile(r"(?:^|[-_.])ray[-_]?v?(\d+\.\d+\.\d+)")
"""Ray's version in a tag such as ``0.1.0-ray2.60.0-cpu``."""
VERSION_IN_TAG = re.compile(r"v?(\d+\.\d+\.\d+(?:\.?(?:a|b|rc|dev|post)\d+)*)(?=[-_+]|$)")
"""The version with which a tag of ours begins."""
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
    return name_image(choose_ray_version(kubernetes), gpus=gpus)


def name_image(ray_version: str, registry: str | None = None, *, gpus: bool) -> str:
    """The name of this version's image: its tag names the versions of the package and of Ray."""
    name = f"medfuncta-dist:{__version__}-ray{ray_version}{'' if gpus else '-cpu'}"
    return f"{registry.rstrip('/')}/{name}" if registry else name


def parse_ray_version(name: str) -> str | None:
    """The version of Ray in the tag of an image; None if the tag names none (``latest``, a digest)."""
    repository, tag = split_tag(name)
    found = RAY_IN_TAG.search(tag) or (
        re.match(r"(\d+\.\d+\.\d+)", tag) if OFFICIAL_REPOSITORY.search(repository) else None
    )
    return found.group(1) if found else None


def parse_package_version(name: str) -> str | None:
    """The version of this package in the tag of an image; None if the tag names none.

    A tag is taken to begin with it if the image is called medfuncta, or if Ray's version follows, as in our own tags.
    """
    repository, tag = split_tag(name)
    ours = "medfuncta" in repository.rpartition("/")[2] or RAY_IN_TAG.search(tag)
    found = VERSION_IN_TAG.match(tag) if ours else None
    return found.group(1) if found else None


def names_registry(name: str) -> bool:
    """Whether the name of an image begins with a registry, by the rule of container engines: a host with a dot or a
    port, or ``localhost``. Without one, they look on Docker Hub."""
    host, slash, _ = name.partition("/")
    return bool(slash) and ("." in host or ":" in host or host == "localhost")


def split_tag(name: str) -> tuple[str, str]:
    """(repository, tag) of an image's name; no tag is ""."""
    whole = name.partition("@")[0]
    repository, _, tag = whole.rpartition(":")
    if not repository or "/" in tag:  # no tag: the colon belongs to a registry's port
        return whole, ""
    return repository, tag
