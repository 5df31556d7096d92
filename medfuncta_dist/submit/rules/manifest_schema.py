"""Schemas: the strict ones of the custom resources where MEDFUNCTA_SCHEMAS names their folder, and those of Kubernetes'
own kinds, which the package kubernetes-validate brings along."""

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
"""The oldest version that the schemas must hold for."""
PRESERVE_UNKNOWN = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
REMEDY = "correct the field: the API server drops or refuses what its schema does not have"


def find_schema_folder() -> Path | None:
    """The folder that MEDFUNCTA_SCHEMAS names; None where it is not set. RunFileError where it names none."""
    given = os.environ.get(SCHEMAS_VARIABLE)
    if not given:
        return None
    folder = Path(given)
    if not folder.is_dir():
        raise RunFileError(f"{SCHEMAS_VARIABLE} names no folder", where=given, do="correct it, or unset it")
    return folder


def check_custom_resource(manifest: Mapping[str, Any], folder: Path) -> list[Finding]:
    """Where a custom resource breaks its CRD's schema; unknown fields, and an unknown kind, are breaches."""
    schema = _load_crd_schema(folder, str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if schema is None:
        what = f"there is no schema for {manifest.get('apiVersion')} {manifest.get('kind')}"
        return [Finding("crd-schema", "apiVersion, kind", what, f"put it into {SCHEMAS_VARIABLE}, or correct the kind")]
    return list(_iterate_findings(schema, manifest, "crd-schema"))


def check_core_object(manifest: Mapping[str, Any], where: str = "") -> list[Finding]:
    """Where an object of a kind of Kubernetes' own breaks its schema: the first breach; unknown fields are some."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(dict(manifest), KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [Finding("core-schema", _format_path(where, error.absolute_path), error.message, REMEDY)]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [Finding("core-schema", where or "kind", error.message, "use a kind and version that Kubernetes has")]
    return []


def check_pod_template(template: Mapping[str, Any], where: str) -> list[Finding]:
    """The same for a pod template inside of another resource."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template.get("spec")}
    return check_core_object(pod, where)


def make_strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema that refuses unknown fields, as the API server's strict mode does."""
    if isinstance(schema, list):
        return [make_strict(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: make_strict(value) for key, value in schema.items()}
    if schema.get(INT_OR_STRING):
        made.pop("type", None)
        return {"allOf": [made, {"type": ["integer", "string"]}]}
    if (
        isinstance(schema.get("properties"), Mapping)
        and schema.get("type") == "object"
        and not schema.get(PRESERVE_UNKNOWN)
    ):
        made.setdefault("additionalProperties", False)
    return made


@cache
def _load_crd_schema(folder: Path, api_version: str, kind: str) -> dict[str, Any] | None:
    group, _, version = api_version.partition("/")
    for path in sorted(folder.glob(f"*/{kind.lower()}.{version}.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found["group"], found["version"], found["kind"]) == (group, version, kind):
            schema: dict[str, Any] = make_strict(found["schema"])
            schema["properties"]["metadata"] = {"type": "object"}  # the API server's own, not the CRD's
            return schema
    return None


def _iterate_findings(schema: Mapping[str, Any], manifest: Mapping[str, Any], rule: str) -> Iterator[Finding]:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(manifest):
        yield Finding(rule, _format_path("", error.absolute_path), error.message[:300], REMEDY)


def _format_path(where: str, path: Any) -> str:
    inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{where}{inner}".lstrip(".") or "(the whole object)"
