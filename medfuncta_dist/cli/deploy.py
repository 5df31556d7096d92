"""manifests and image: what a cluster needs, written into a folder."""

from __future__ import annotations

from typing import Any

import typer

from medfuncta_dist.cli.answer import JsonOption, answer

FolderArgument = typer.Argument(..., metavar="DIR", help="The folder to write into.", show_default=False)
ForceOption = typer.Option(False, "--force", help="Replace files in it that differ.")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("manifests", help="Write what a cluster needs (k8s/) and its documentation into a folder.")(manifests)
    app.command("image", help="Write what a container engine needs to build the image of this version.")(image)


def manifests(
    folder: str = FolderArgument,
    docs: bool = typer.Option(True, "--docs/--no-docs", help="Write the documentation (docs/), too."),
    force: bool = ForceOption,
    as_json: bool = JsonOption,
) -> None:
    """Write what a cluster needs."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.deploy.manifests_folder import write_manifests

        return write_manifests(folder, docs=docs, force=force)

    answer(work, as_json)


def image(
    folder: str = FolderArgument,
    registry: str | None = typer.Option(
        None, "--registry", help="The registry, and path, in the images' names.", show_default=False
    ),
    force: bool = ForceOption,
    as_json: bool = JsonOption,
) -> None:
    """Write the image's build context."""

    def work() -> dict[str, Any]:
        from medfuncta_dist.deploy.image_context import write_image_context

        return write_image_context(folder, registry, force=force)

    answer(work, as_json)
