from __future__ import annotations

from medfuncta_dist.submit.manifest.job_names import SUBMISSION_LABEL
from medfuncta_dist.submit.rules.validate_manifest import validate
from tests.unit.submit.manifest.test_pod_disk import pods
from tests.unit.submit.manifests import manifest

ZONE = "topology.kubernetes.io/zone"


def test_one_zone_is_required_of_all_pods_of_a_job_beside_what_an_overlay_says_of_nodes() -> None:
    rendered = manifest("kubernetes.zones=same", overlays=["gpu", "spot"])
    for pod in pods(rendered):
        (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term == {"labelSelector": {"matchLabels": {SUBMISSION_LABEL: "chest-1"}}, "topologyKey": ZONE}
        assert "nodeAffinity" in pod["affinity"]
    labels = rendered["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert labels[SUBMISSION_LABEL] == "chest-1"
    assert validate(rendered) == []


def test_spread_is_wished_for_workers() -> None:
    rendered = manifest("kubernetes.zones=spread", "kubernetes.zone_label=kubernetes.io/hostname")
    head, worker = pods(rendered)
    assert "topologySpreadConstraints" not in head
    (constraint,) = worker["topologySpreadConstraints"]
    assert (constraint["topologyKey"], constraint["maxSkew"]) == ("kubernetes.io/hostname", 1)
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    assert validate(rendered) == []


def test_by_default_a_pod_may_be_in_any_zone() -> None:
    for pod in pods(manifest()):
        assert not {"affinity", "topologySpreadConstraints"} & set(pod)
