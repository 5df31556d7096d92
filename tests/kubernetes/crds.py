"""CustomResourceDefinitions of KubeRay's and Kueue's kinds, from the schemas that MEDFUNCTA_SCHEMAS names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_crds(folder: Path) -> list[dict[str, Any]]:
    """One for each file ``*/*.json`` of {group, kind, version, scope, schema}."""
    return [make_crd(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*/*.json"))]


def make_crd(group: str, kind: str, version: str, scope: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A kind of one version. It has the subresource status if its schema has a status, as these projects' kinds do."""
    plural = pluralize(kind)
    served: dict[str, Any] = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    if "status" in schema.get("properties", {}):
        served["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [served],
        },
    }


def pluralize(kind: str) -> str:
    """As Kubernetes' own tools guess it: RayJob, rayjobs; WorkloadPriorityClass, workloadpriorityclasses."""
    name = kind.lower()
    return f"{name}es" if name.endswith("s") else f"{name}s"
