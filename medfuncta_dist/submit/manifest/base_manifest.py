"""The RayJob that a submission starts from: k8s/base/rayjob.yaml, patched by the rayjob.yaml of each overlay."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from medfuncta_dist.errors import RunFileError

IDENTIFYING_KEYS = ("name", "groupName")
"""Keys that identify an item of a list, as in Kubernetes' strategic merge patches."""
APPENDED_LISTS = ("tolerations", "envFrom")
"""Lists whose items have no name: patches append to them."""


def load_base(overlays: Sequence[str] = ()) -> dict[str, Any]:
    """The base RayJob with each overlay's patch. An overlay is the name of a shipped one, or a folder with rayjob.yaml.

    RunFileError when an overlay cannot be read.
    """
    base = _read_mapping(_find_shipped_folder() / "base" / "rayjob.yaml")
    for overlay in overlays:
        base = merge_patch(base, _read_mapping(_find_patch(overlay)))
    return base


def list_shipped_overlays() -> list[str]:
    """The names of the shipped overlays that patch the RayJob."""
    folders = (_find_shipped_folder() / "components").iterdir()
    return sorted(folder.name for folder in folders if (folder / "rayjob.yaml").is_file())


def merge_patch(base: Any, patch: Any, field: str = "") -> Any:
    """``base`` changed by ``patch``; neither argument is changed.

    Mappings are merged by key, lists of named items by name, tolerations are appended; everything else is replaced.
    """
    if isinstance(base, Mapping) and isinstance(patch, Mapping):
        return {**base, **{key: merge_patch(base.get(key), value, key) for key, value in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list):
        return _merge_list(base, patch, field)
    return patch


def _merge_list(base: list[Any], patch: list[Any], field: str) -> list[Any]:
    if field in APPENDED_LISTS:
        return base + [item for item in patch if item not in base]
    if not all(_find_item_name(item) for item in base + patch):
        return patch
    patches = {_find_item_name(item): item for item in patch}
    kept = [
        merge_patch(item, patches.pop(_find_item_name(item))) if _find_item_name(item) in patches else item
        for item in base
    ]
    return kept + list(patches.values())


def _find_item_name(item: Any) -> str | None:
    found = [item[key] for key in IDENTIFYING_KEYS if key in item] if isinstance(item, Mapping) else []
    return str(found[0]) if found else None


def _find_shipped_folder() -> Traversable:
    return files("medfuncta_dist") / "k8s"


def _find_patch(overlay: str) -> Traversable | Path:
    if overlay in list_shipped_overlays():
        return _find_shipped_folder() / "components" / overlay / "rayjob.yaml"
    return Path(overlay).expanduser() / "rayjob.yaml"


def _read_mapping(path: Traversable | Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        do = f"choose from {', '.join(list_shipped_overlays())}, or name a folder that has a rayjob.yaml"
        raise RunFileError(f"the overlay cannot be read: {error}", where="kubernetes.overlays", do=do) from error
    if not isinstance(found, dict):
        raise RunFileError(
            "the overlay's rayjob.yaml is not a mapping", where=str(path), do="write it as a part of a RayJob"
        )
    copy: dict[str, Any] = json.loads(json.dumps(found))  # an alias in the YAML would be one object in several places
    return copy
