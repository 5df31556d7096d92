"""The manifests of a cluster, and the pages about them, in a folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from medfuncta_dist.deploy.folder_writer import write_folder
from medfuncta_dist.deploy.package_files import read_data_folder
from medfuncta_dist.version import __version__

EXAMPLE = "kueue"
"""The overlay that the next command names."""


def write_manifests(folder: str, *, docs: bool, force: bool) -> dict[str, Any]:
    """Write k8s/, and with ``docs`` docs/, into the folder; what --json prints. Errors: as ``write_folder``.

    They lie in it as in the repository, so paths and links in pages and messages hold there.
    """
    names = ("k8s", "docs") if docs else ("k8s",)
    files = {f"{name}/{path}": content for name in names for path, content in read_data_folder(name).items()}
    done = write_folder(Path(folder), files, force=force)
    overlays = sorted({path.split("/")[2] for path in files if path.startswith("k8s/overlays/")})
    written = [*done.new, *done.different]
    example = shlex.quote(f"{folder}/k8s/overlays/{EXAMPLE}")
    parts = [f"{name}/ ({sum(path.startswith(f'{name}/') for path in files)} files)" for name in names]
    return {
        "folder": folder,
        "files": sorted(files),
        "written": sorted(written),
        "overlays": overlays,
        "said": [
            f"{' and '.join(parts)} of medfuncta-dist {__version__} in {folder}: "
            f"{len(done.new)} new, {len(done.different)} replaced, {len(done.same)} as they were",
            f"next, look at an overlay ({', '.join(overlays)}), then apply it:",
            f"  kubectl kustomize {example}",
            f"  kubectl apply -k {example}",
            f"your own changes belong in an overlay beside this folder: {folder}/k8s/README.md has one to start from",
        ],
    }
