from __future__ import annotations

from typing import Any

from medfuncta_dist.submit.manifest.pod_disk import ephemeral_gib
from medfuncta_dist.submit.manifest.quantity import parse_quantity
from tests.unit.submit.manifests import manifest, run_file


def pods(rendered: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = rendered["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def disk(container: dict[str, Any]) -> tuple[str | None, str | None]:
    return tuple(container["resources"][kind].get("ephemeral-storage") for kind in ("requests", "limits"))


def test_the_disk_is_the_sum_of_what_is_written_to_it() -> None:
    run = run_file("kubernetes.logs_gigabytes=3", "kubernetes.spill_gigabytes=20")
    assert ephemeral_gib(run, 0) == ephemeral_gib(run, 1) == 22 + 3 + 20 + 4
    assert ephemeral_gib(run, 4) == 22 + 3 + 20 + 16
    assert ephemeral_gib(run_file("kubernetes.scratch_gigabytes=60"), 2) == 22 + 5 + 5 + 120


def test_a_cache_on_a_volume_of_its_own_is_not_on_the_nodes_disk() -> None:
    assert ephemeral_gib(run_file("kubernetes.cache_storage_class=nvme"), 1) == 5 + 5 + 4


def test_every_pod_requests_what_its_volumes_may_take_and_every_volume_has_a_limit() -> None:
    for pod in pods(manifest(stages=["pack", "train"], overlays=["gpu", "spot", "kueue", "local"])):
        limits = [parse_quantity(v["emptyDir"]["sizeLimit"]) for v in pod["volumes"] if v["name"] != "shm"]
        assert {v["name"] for v in pod["volumes"]} == {"ray-logs", "shm", "cache", "spill"}
        assert all(limit for limit in limits)
        requested = [disk(container) for container in pod["containers"]]
        assert all(wanted == given is not None for wanted, given in requested)
        assert sum(parse_quantity(given) or 0 for _, given in requested) > sum(limit or 0 for limit in limits)


def test_pods_may_be_rendered_without_a_share_of_the_disk() -> None:
    for pod in pods(manifest("kubernetes.ephemeral_storage=false")):
        assert [disk(container) for container in pod["containers"]] == [(None, None)] * len(pod["containers"])
        assert all(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"])


def test_ray_spills_into_a_volume_of_its_own() -> None:
    rendered = manifest("kubernetes.spill_path=/overflow", stages=["pack", "train"])
    cluster = rendered["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"]["object-spilling-directory"] == "/overflow"
        mounts = {m["name"]: m["mountPath"] for m in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert mounts["spill"] == "/overflow"
