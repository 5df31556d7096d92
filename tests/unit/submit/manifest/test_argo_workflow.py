from __future__ import annotations

import pytest
import yaml

from medfuncta_dist.config.stage_names import STAGES
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.backends.backend import JobState
from medfuncta_dist.submit.backends.kubernetes.rayjob_state import STATE_BY_DEPLOYMENT_STATUS
from medfuncta_dist.submit.manifest.argo_workflow import build_workflow
from tests.unit.submit.manifests import manifest


def jobs(*overrides: str):
    return [manifest(*overrides, stages=[stage]) for stage in STAGES]


def test_a_workflow_applies_the_same_jobs_one_after_the_other():
    made = build_workflow(jobs())
    chain, *steps = made["spec"]["templates"]
    assert [[step["template"] for step in group] for group in chain["steps"]] == [[stage] for stage in STAGES]
    assert [yaml.safe_load(step["resource"]["manifest"]) for step in steps] == jobs()
    assert made["metadata"]["name"] == "chest-ptfe1"
    assert made["metadata"]["namespace"] == "medfuncta"


def test_a_step_ends_with_its_job_and_not_with_a_suspended_or_retrying_one():
    step = build_workflow(jobs())["spec"]["templates"][1]["resource"]
    assert step["action"] == "apply"
    assert step["successCondition"] == "status.jobDeploymentStatus == Complete, status.jobStatus == SUCCEEDED"
    # A job that KubeRay refuses never runs: its step must not wait for it.
    ended = "status.jobDeploymentStatus in (Failed, ValidationFailed), status.jobStatus == STOPPED"
    assert step["failureCondition"] == ended
    assert {word for word, state in STATE_BY_DEPLOYMENT_STATUS.items() if state is JobState.FAILED} == {
        "Failed",
        "ValidationFailed",
    }


def test_what_argo_would_change_is_refused():
    with pytest.raises(RunFileError, match="Argo would replace"):
        build_workflow(jobs("evaluate.note='{{x}}'"))
    with pytest.raises(RunFileError, match="no job"):
        build_workflow([])


def test_the_service_account_is_one_that_the_component_makes():
    from importlib.resources import files

    text = (files("medfuncta_dist") / "k8s/components/argo/workflow.yaml").read_text()
    accounts = [d["metadata"]["name"] for d in yaml.safe_load_all(text) if d["kind"] == "ServiceAccount"]
    assert build_workflow(jobs())["spec"]["serviceAccountName"] in accounts
