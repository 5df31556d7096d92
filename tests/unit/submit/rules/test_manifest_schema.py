from __future__ import annotations

import os
from pathlib import Path

import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.rules.manifest_schema import (
    check_core_object,
    check_custom_resource,
    check_pod_template,
    find_schema_folder,
    make_strict,
)
from medfuncta_dist.submit.rules.validate_manifest import require_valid, validate
from tests.unit.submit.manifests import GONE, changed, manifest

needs_schemas = pytest.mark.skipif(
    not os.environ.get("MEDFUNCTA_SCHEMAS"), reason="MEDFUNCTA_SCHEMAS does not name a folder with the CRDs' schemas"
)


@needs_schemas
@pytest.mark.parametrize(
    ("changes", "where", "what"),
    [
        ({"spec/submisionMode": "HTTPMode"}, "spec", "submisionMode"),
        ({"spec/backoffLimit": "3"}, "spec.backoffLimit", "'3' is not of type 'integer'"),
        ({"spec/rayClusterSpec/workerGroupSpecs/0/minReplicas": GONE}, "workerGroupSpecs[0]", "'minReplicas'"),
        ({"spec/rayClusterSpec/authOptions/mode": "on"}, "authOptions.mode", "'on' is not one of"),
        (
            {"spec/rayClusterSpec/headGroupSpec/template/spec/containers/0/imagePullPolice": "Never"},
            "containers[0]",
            "imagePullPolice",
        ),
    ],
)
def test_the_crd_knows_every_field(changes, where, what):
    folder = Path(os.environ["MEDFUNCTA_SCHEMAS"])
    assert check_custom_resource(manifest(), folder) == []
    found = check_custom_resource(changed(manifest(), changes), folder)
    assert any(where in finding.where and what in finding.what for finding in found), found


@needs_schemas
def test_validation_uses_the_folder_that_the_environment_names():
    assert [f.rule for f in validate(changed(manifest(), {"spec/rayStart": 1}))] == ["crd-schema"]
    (finding,) = check_custom_resource(
        {"apiVersion": "ray.io/v1", "kind": "Thing"}, Path(os.environ["MEDFUNCTA_SCHEMAS"])
    )
    assert finding.what == "there is no schema for ray.io/v1 Thing"


def test_without_the_folder_kubernetes_own_schemas_still_hold_for_pods(monkeypatch):
    monkeypatch.delenv("MEDFUNCTA_SCHEMAS", raising=False)
    assert find_schema_folder() is None
    place = "spec/rayClusterSpec/workerGroupSpecs/0/template/spec/containers/0/imagePullPolice"
    (finding,) = validate(changed(manifest(), {place: "Never"}))
    assert finding.rule == "core-schema"
    assert finding.where == "spec.rayClusterSpec.workerGroupSpecs[gpu].template.spec.containers[0]"
    assert "imagePullPolice" in finding.what


def test_a_folder_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("MEDFUNCTA_SCHEMAS", "/no/such/folder")
    with pytest.raises(RunFileError, match="MEDFUNCTA_SCHEMAS does not name a folder"):
        validate(manifest())


def test_kinds_of_kubernetes_own():
    good = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}}
    assert check_core_object(good) == []
    assert "automont" in check_core_object({**good, "automont": True})[0].what
    assert "schema for kind" in check_core_object({**good, "kind": "Nothing"})[0].what
    assert check_pod_template({"spec": {"containers": []}}, "here") == []
    assert check_pod_template({"spec": {}}, "here")[0].where.startswith("here")


def test_strictness_stops_where_the_schema_says_so():
    schema = {
        "type": "object",
        "properties": {
            "a": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "b": {"type": "object", "properties": {"c": {}}, "x-kubernetes-preserve-unknown-fields": True},
            "d": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    made = make_strict(schema)
    assert made["additionalProperties"] is False
    assert "additionalProperties" not in made["properties"]["b"]
    assert made["properties"]["d"]["additionalProperties"] == {"type": "string"}


def test_an_invalid_manifest_is_refused_with_all_its_faults():
    broken = changed(manifest(), {"metadata/name": "A", "spec/submissionMode": "K8sJobMode"})
    with pytest.raises(RunFileError) as caught:
        require_valid(broken)
    assert caught.value.exit_code == 2
    for needle in ("2 faults", "name-dns-1035", "http-mode", "set submissionMode to HTTPMode"):
        assert needle in caught.value.what
    require_valid(manifest())
