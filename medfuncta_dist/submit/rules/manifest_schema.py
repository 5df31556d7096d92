"""Checks against schemas: strict ones of custom resources, if MEDFUNCTA_SCHEMAS names a folder with them, and those of
Kubernetes' own kinds, which the package kubernetes-validate contains."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.rules.rule import Finding

SCHEMAS_VARIABLE = "MEDFUNCTA_SCHEMAS"
KUBERNETES_VERSION = "1.34"
"""The oldest version of Kubernetes that manifests must be valid for."""
PRESERVE_UNKNOWN = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
REMEDY = "correct the field: the API server drops or refuses fields that are not in its schema"


def find_schema_folder() -> Path | None:
    """The folder that MEDFUNCTA_SCHEMAS names; None if it is not set. RunFileError if there is no such folder."""
    given = os.environ.get(SCHEMAS_VARIABLE)
    if not given:
        return None
    folder = Path(given)
    if not folder.is_dir():
        raise RunFileError(f"{SCHEMAS_VARIABLE} does not name a folder", where=given, do="correct it, or unset it")
    return folder


def check_custom_resource(manifest: Mapping[str, Any], folder: Path) -> list[Finding]:
    """Where a custom resource breaks its CRD's schema. Unknown fields, and an unknown kind, are breaches."""
    schema = _load_crd_schema(folder, str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if schema is None:
        what = f"there is no schema for {manifest.get('apiVersion')} {manifest.get('kind')}"
        return [
            Finding(
                "crd-schema",
                "apiVersion, kind",
                what,
                f"add it to the folder in {SCHEMAS_VARIABLE}, or correct the kind",
            )
        ]
    return list(_iterate_findings(schema, manifest, "crd-schema"))


def check_core_object(manifest: Mapping[str, Any], where: str = "") -> list[Finding]:
    """The first place where an object of Kubernetes' own kinds breaks its schema. Unknown fields are breaches."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(dict(manifest), KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [Finding("core-schema", _format_path(where, error.absolute_path), error.message, REMEDY)]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [Finding("core-schema", where or "kind", error.message, "use a kind and version that Kubernetes knows")]
    return []


def check_pod_template(template: Mapping[str, Any], where: str) -> list[Finding]:
    """The same for a pod template inside another resource."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template.get("spec")}
    return check_core_object(pod, where)


def make_strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema that refuses unknown fields, as the API server's strict mode does."""
    if isinstance(schema, list):
        return [make_strict(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    converted = {key: make_strict(value) for key, value in schema.items()}
    if schema.get(INT_OR_STRING):
        converted.pop("type", None)
        return {"allOf": [converted, {"type": ["integer", "string"]}]}
    if (
        isinstance(schema.get("properties"), Mapping)
        and schema.get("type") == "object"
        and not schema.get(PRESERVE_UNKNOWN)
    ):
        converted.setdefault("additionalProperties", False)
    return converted


@cache
def _load_crd_schema(folder: Path, api_version: str, kind: str) -> dict[str, Any] | None:
    group, _, version = api_version.partition("/")
    for path in sorted(folder.glob(f"*/{kind.lower()}.{version}.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found["group"], found["version"], found["kind"]) == (group, version, kind):
            schema: dict[str, Any] = make_strict(found["schema"])
            schema["properties"]["metadata"] = {"type": "object"}  # defined by the API server, not by the CRD
            return schema
    return None


def _iterate_findings(schema: Mapping[str, Any], manifest: Mapping[str, Any], rule: str) -> Iterator[Finding]:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(manifest):
        yield Finding(rule, _format_path("", error.absolute_path), error.message[:300], REMEDY)


def _format_path(where: str, path: Any) -> str:
    inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{where}{inner}".lstrip(".") or "(the whole object)"
