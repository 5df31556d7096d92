"""What is doubtful about the images of a run's jobs: nodes may not find one, or may find another version's. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.submit.manifest.base_manifest import load_base
from medfuncta_dist.submit.manifest.container_image import names_registry, parse_package_version
from medfuncta_dist.submit.manifest.render import Submission, render
from medfuncta_dist.submit.rules.manifest_view import RayJob
from medfuncta_dist.version import __version__


@dataclass(frozen=True)
class Image:
    """The image of a pod. ``pulled``: whether nodes may look for it in a registry."""

    name: str
    pulled: bool = True


class Doubt(NamedTuple):
    """What is doubtful, and what to do about it."""

    what: str
    do: str


def list_images(run: RunFile, jobs: Sequence[Sequence[str]], overlays: Sequence[str] = ()) -> list[Image]:
    """The images of these jobs, each given by its stages, with the run file's overlays and these."""
    base = load_base([*run.kubernetes.overlays, *overlays])
    found = [
        Image(str(container.get("image", "")), container.get("imagePullPolicy") != "Never")
        for stages in jobs
        for _, container in RayJob(render(Submission(run, tuple(stages), 1, "image", ""), base)).ray_containers()
    ]
    return list(dict.fromkeys(found))


def find_doubts(image: Image, installed: str = __version__) -> Iterator[Doubt]:
    """A doubt where the name has no registry to pull from, and one where its tag names another version than this."""
    if image.pulled and not names_registry(image.name):
        yield Doubt(
            f"{image.name} names no registry, so nodes that do not have it look for it on Docker Hub",
            "push it to a registry, and set kubernetes.image to its whole name there; nothing, if the nodes have it",
        )
    tagged = parse_package_version(image.name)
    if tagged is not None and tagged != installed:
        yield Doubt(
            f"the tag of {image.name} names version {tagged} of this package, but {installed} is installed here",
            "build the image of this version (medfuncta-dist image DIR), or install the image's version here",
        )


def warn_of_images(images: Sequence[Image]) -> list[str]:
    """A line per doubt."""
    return [f"warning: {doubt.what}; {doubt.do}" for image in images for doubt in find_doubts(image)]
