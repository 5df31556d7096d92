"""Validating a RayJob before it is sent, by schemas and all rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.rules import (
    cluster_rules,
    kuberay_rules,
    kueue_rules,
    resource_rules,
    run_rules,
    security_rules,
)
from medfuncta_dist.submit.rules.manifest_schema import check_custom_resource, check_pod_template, find_schema_folder
from medfuncta_dist.submit.rules.manifest_view import RayJob
from medfuncta_dist.submit.rules.rule import Finding

RULE_BOOKS = (
    kuberay_rules.RULES,
    cluster_rules.RULES,
    kueue_rules.RULES,
    security_rules.RULES,
    run_rules.RULES,
    resource_rules.RULES,
)
RULES = tuple(rule for book in RULE_BOOKS for rule in book.rules)
"""Every rule, in the order of their findings."""


def validate(manifest: Mapping[str, Any]) -> list[Finding]:
    """Everything that is wrong with a RayJob; empty if it is valid.

    Checks are its CRD's schema (if MEDFUNCTA_SCHEMAS is set), Kubernetes' schemas for its pods, the rules of KubeRay's
    and Kueue's controllers, and this tool's own rules.
    """
    job = RayJob(manifest)
    folder = find_schema_folder()
    findings = check_custom_resource(manifest, folder) if folder is not None else []
    for where, template in job.templates() if job.cluster else ():
        findings += check_pod_template(template, where)
    for rule in RULES:
        findings += rule.findings(job)
    return findings


def require_valid(manifest: Mapping[str, Any]) -> None:
    """RunFileError with all findings, if there are any."""
    _require_no_findings(validate(manifest), manifest)


def require_no_secrets(manifest: Mapping[str, Any]) -> None:
    """RunFileError if the manifest contains secrets: the one rule that also applies where there are no pods."""
    secrets = next(rule for rule in security_rules.RULES.rules if rule.name == "no-secrets")
    _require_no_findings(secrets.findings(RayJob(manifest)), manifest)


def _require_no_findings(findings: Sequence[Finding], manifest: Mapping[str, Any]) -> None:
    if findings:
        name = RayJob(manifest).name or "a RayJob"
        lines = [f"  {f.rule}: {f.where}: {f.what}\n      do: {f.do}" for f in findings]
        what = f"{name} would not run ({len(findings)} fault{'s' * (len(findings) > 1)}):"
        raise RunFileError("\n".join([what, *lines]), do="correct these in the run file or in its overlay")
