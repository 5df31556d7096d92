"""The environment variables of a RayJob's entrypoint, which hold the run file and the submission's id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

RUN_FILE_VARIABLE = "MEDFUNCTA_RUN_FILE"


def read_environment(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The environment variables of a RayJob's entrypoint."""
    spec = manifest.get("spec")
    try:
        found = yaml.safe_load(str(spec.get("runtimeEnvYAML") or "")) if isinstance(spec, Mapping) else None
    except yaml.YAMLError:
        return {}
    variables = found.get("env_vars") if isinstance(found, dict) else None
    return variables if isinstance(variables, dict) else {}


def read_run_file(manifest: Mapping[str, Any]) -> str:
    """The run file inside a RayJob, as YAML; empty if this tool did not render it."""
    return str(read_environment(manifest).get(RUN_FILE_VARIABLE, ""))
