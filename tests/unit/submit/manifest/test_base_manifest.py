from __future__ import annotations

import copy

import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest.base_manifest import list_shipped_overlays, load_base, merge_patch


def test_the_shipped_overlays_are_found():
    assert list_shipped_overlays() == ["gpu", "kueue", "local", "spot"]


def test_named_things_merge_and_neither_side_changes():
    base = {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}
    patch = {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]}
    before = copy.deepcopy((base, patch))
    assert merge_patch(base, patch) == {
        "containers": [
            {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b"},
            {"name": "c"},
        ]
    }
    assert (base, patch) == before


def test_tolerations_add_up_once_and_other_lists_are_replaced():
    spot, gpu = {"key": "spot"}, {"key": "gpu"}
    assert merge_patch({"tolerations": [spot]}, {"tolerations": [gpu, spot]}) == {"tolerations": [spot, gpu]}
    assert merge_patch({"drop": ["A"]}, {"drop": ["B"]}) == {"drop": ["B"]}
    assert merge_patch({"terms": [{"x": 1}]}, {"terms": [{"y": 2}]}) == {"terms": [{"y": 2}]}


def test_overlays_lie_over_each_other_in_order():
    groups = {
        group["groupName"]: group for group in load_base(["gpu", "spot"])["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    }
    keys = [toleration["key"] for toleration in groups["gpu"]["template"]["spec"]["tolerations"]]
    assert keys[0] == "nvidia.com/gpu"
    assert "cloud.google.com/gke-spot" in keys
    assert "nvidia.com/gpu" not in str(groups["cpu"])


def test_a_part_in_many_places_of_the_yaml_is_a_copy_in_each():
    groups = load_base()["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert groups[0]["template"] is not groups[1]["template"]


def test_an_overlay_of_ones_own_is_a_folder(tmp_path):
    (tmp_path / "rayjob.yaml").write_text("spec: {backoffLimit: 9}\n")
    assert load_base([str(tmp_path)])["spec"]["backoffLimit"] == 9


@pytest.mark.parametrize("text", ["- a\n", "a: [", None])
def test_an_overlay_that_cannot_be_read_is_refused_with_those_there_are(tmp_path, text):
    if text is not None:
        (tmp_path / "rayjob.yaml").write_text(text)
    with pytest.raises(RunFileError, match=r"rayjob\.yaml"):
        load_base([str(tmp_path)])


def test_an_unknown_overlay_is_refused_by_the_names_of_the_shipped():
    with pytest.raises(RunFileError, match="gpu, kueue, local, spot"):
        load_base(["kueueue"])
