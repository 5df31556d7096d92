"""The build context of the image: everything that a container engine needs to build it, without a clone."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medfuncta_dist.deploy.folder_writer import write_folder
from medfuncta_dist.deploy.own_wheel import build_own_wheel
from medfuncta_dist.deploy.package_files import Content, Tree, read_file
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest.code_commit import find_known_commit
from medfuncta_dist.submit.manifest.container_image import name_image

WHEEL_STAGE = re.compile(r"^FROM packages AS wheel\n.*?(?=^# ---- )", re.MULTILINE | re.DOTALL)
"""The stage of cluster/Dockerfile that builds the wheel from a clone."""
REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*/?")
UNKNOWN_COMMIT = "ARG COMMIT=unknown\n"


def write_image_context(folder: str, registry: str | None, *, force: bool) -> dict[str, Any]:
    """Write the build context of this version's image; what --json prints. Errors: as ``write_folder``; RunFileError
    for a registry that no image's name can begin with."""
    if registry is not None and not REGISTRY.fullmatch(registry):
        do = "for example my-registry.example/team, without https:// and without a tag"
        raise RunFileError("it cannot begin the name of an image", where="--registry", do=do)
    wheel, packed = build_own_wheel()
    constraints, commit = read_file("deploy/constraints.txt"), find_known_commit()
    ray = pinned_version(constraints.decode(), "ray")
    images = {target: name_image(ray, registry, gpus=target == "cuda") for target in ("cuda", "cpu")}
    builds = {target: f"docker build --target {target} -t {image}" for target, image in images.items()}
    text = adapt_dockerfile(read_file("cluster/Dockerfile").decode(), wheel, list(builds.values()), commit)
    files: Tree = {
        "Dockerfile": Content(text.encode()),
        ".dockerignore": Content(ignore_all_but("constraints.txt", "pyproject.toml", wheel).encode()),
        "constraints.txt": Content(constraints),
        "pyproject.toml": Content(read_file("deploy/project.toml")),
        wheel: Content(packed),
    }
    done = write_folder(Path(folder), files, force=force)
    return {
        "folder": folder,
        "files": sorted(files),
        "written": [*done.new, *done.different],
        "images": images,
        "ray_version": ray,
        "said": [
            f"{folder} has what the image needs: {', '.join(sorted(files))}",
            "next, with docker or another engine (cuda: for jobs with GPUs; cpu: smaller, for the others):",
            *(f"  {build} {shlex.quote(folder)}" for build in builds.values()),
            *_advise(images, registry, ray),
        ],
    }


def adapt_dockerfile(text: str, wheel: str, builds: list[str], commit: str | None) -> str:
    """cluster/Dockerfile for a folder that has the wheel in place of the sources. Pure."""
    syntax, _, rest = text.partition("\n")
    body = rest.partition("\n\n")[2]
    body, stages = WHEEL_STAGE.subn(f"FROM scratch AS wheel\nCOPY {wheel} /wheels/\n\n", body)
    assert stages == 1, "the Dockerfile has one stage that builds the wheel"
    if commit is not None:
        body = body.replace(UNKNOWN_COMMIT, f"ARG COMMIT={commit}\n")
    head = [
        syntax,
        "# What a Ray node is. Written by `medfuncta-dist image`: after an upgrade of the package, write it again.",
        "# In this folder:",
        "#",
        *(f"#   {build} ." for build in builds),
        "#",
        "# The tag names the versions of the package and of Ray: submission refuses an image with another Ray.",
    ]
    return "\n".join(head) + f"\n\n{body}"


def ignore_all_but(*names: str) -> str:
    """The text of .dockerignore."""
    return "\n".join(["# Nothing but what the Dockerfile copies.", "*", *(f"!{name}" for name in names), ""])


def pinned_version(constraints: str, name: str) -> str:
    """The version of a package that the image gets."""
    (found,) = re.findall(rf"^{name}==(\S+)", constraints, re.MULTILINE)
    return str(found)


def _advise(images: dict[str, str], registry: str | None, ray: str) -> list[str]:
    """What comes after the build."""
    named = f"image: {images['cuda']}, cpu_image: {images['cpu']}"
    lines = [
        f"then `docker push` them, and set in run files: kubernetes: {{{named}}}"
        if registry
        else "nodes pull only what a registry has: for names with yours, add --registry my-registry.example/team"
    ]
    if version("ray") != ray:
        lines.append(
            f"Ray {version('ray')} is installed here, and the image has {ray}: set kubernetes.ray_version: {ray}"
        )
    return lines
