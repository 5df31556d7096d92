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

VARIABLE = "MEDFUNCTA_SCHEMAS"
KUBERNETES = "1.34"
"""The oldest version that the schemas must hold for."""
LOOSE = "x-kubernetes-preserve-unknown-fields"
EITHER = "x-kubernetes-int-or-string"
DO = "correct the field: the API server drops or refuses what its schema does not have"


def schema_folder() -> Path | None:
    """The folder that MEDFUNCTA_SCHEMAS names; None where it is not set. RunFileError where it names none."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    folder = Path(given)
    if not folder.is_dir():
        raise RunFileError(f"{VARIABLE} names no folder", where=given, do="correct it, or unset it")
    return folder


def custom_findings(manifest: Mapping[str, Any], folder: Path) -> list[Finding]:
    """Where a custom resource breaks its CRD's schema; unknown fields, and an unknown kind, are breaches."""
    schema = _crd_schema(folder, str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if schema is None:
        what = f"there is no schema for {manifest.get('apiVersion')} {manifest.get('kind')}"
        return [Finding("crd-schema", "apiVersion, kind", what, f"put it into {VARIABLE}, or correct the kind")]
    return list(_breaches(schema, manifest, "crd-schema"))


def core_findings(manifest: Mapping[str, Any], where: str = "") -> list[Finding]:
    """Where an object of a kind of Kubernetes' own breaks its schema: the first breach; unknown fields are some."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(dict(manifest), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [Finding("core-schema", _path(where, error.absolute_path), error.message, DO)]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [Finding("core-schema", where or "kind", error.message, "use a kind and version that Kubernetes has")]
    return []


def pod_findings(template: Mapping[str, Any], where: str) -> list[Finding]:
    """The same for a pod template inside of another resource."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template.get("metadata", {}), "spec": template.get("spec")}
    return core_findings(pod, where)


def strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema that refuses unknown fields, as the API server's strict mode does."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if schema.get(EITHER):
        made.pop("type", None)
        return {"allOf": [made, {"type": ["integer", "string"]}]}
    if isinstance(schema.get("properties"), Mapping) and schema.get("type") == "object" and not schema.get(LOOSE):
        made.setdefault("additionalProperties", False)
    return made


@cache
def _crd_schema(folder: Path, api_version: str, kind: str) -> dict[str, Any] | None:
    group, _, version = api_version.partition("/")
    for path in sorted(folder.glob(f"*/{kind.lower()}.{version}.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if (found["group"], found["version"], found["kind"]) == (group, version, kind):
            schema: dict[str, Any] = strict(found["schema"])
            schema["properties"]["metadata"] = {"type": "object"}  # the API server's own, not the CRD's
            return schema
    return None


def _breaches(schema: Mapping[str, Any], manifest: Mapping[str, Any], rule: str) -> Iterator[Finding]:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(manifest):
        yield Finding(rule, _path("", error.absolute_path), error.message[:300], DO)


def _path(where: str, path: Any) -> str:
    inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{where}{inner}".lstrip(".") or "(the whole object)"
