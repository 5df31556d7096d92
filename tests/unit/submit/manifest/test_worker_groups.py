from __future__ import annotations

import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.submit.manifest.worker_groups import choose_window, make_worker_groups
from tests.unit.submit.manifests import run_file


@pytest.mark.parametrize(
    ("stages", "groups"),
    [
        (["pack"], ["cpu"]),
        (["train"], ["gpu"]),
        (["fit"], ["gpu"]),
        (["evaluate"], ["cpu"]),
        (["pack", "train"], ["cpu", "gpu"]),
    ],
)
def test_a_stage_gets_the_pods_that_it_uses(stages, groups):
    assert [group.name for group in make_worker_groups(run_file(), stages)] == groups


def test_without_gpus_everything_runs_on_cpus():
    assert [g.name for g in make_worker_groups(run_file("cluster.gpus_per_worker=0"), ["pack", "train"])] == ["cpu"]


def test_a_pod_for_a_node_holds_several_workers():
    (group,) = make_worker_groups(run_file("kubernetes.gpu.workers=3"), ["train"])
    assert (group.min_pods, group.max_pods, group.cpus, group.gpus) == (3, 3, 12, 3)


def test_a_range_of_workers_is_one_of_pods():
    (group,) = make_worker_groups(run_file("cluster.workers=[2, 8]", "kubernetes.gpu.workers=2"), ["train"])
    assert (group.min_pods, group.max_pods) == (1, 4)


def test_a_number_of_pods_may_be_given():
    (group,) = make_worker_groups(run_file("kubernetes.cpu.pods=20"), ["pack"])
    assert (group.min_pods, group.max_pods, group.gpus) == (20, 20, 0)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], None),
        (["kubernetes.cpu.pods=20", "kubernetes.cpu.workers=4"], 160),
        (["kubernetes.cpu.pods=20", "cluster.window=7"], 7),
        (["kubernetes.gpu.pods=20"], None),
    ],
)
def test_as_many_tasks_are_in_flight_as_the_pods_can_take(overrides, expected):
    run = run_file(*overrides)
    assert choose_window(run, make_worker_groups(run, ["pack"])) == expected


def test_shared_memory_is_a_share_of_the_pods_unless_given():
    assert make_worker_groups(run_file("kubernetes.gpu.memory_gigabytes=100"), ["train"])[0].shm_gib == 40
    assert make_worker_groups(run_file("kubernetes.shm_gigabytes=3"), ["train"])[0].shm_gib == 3


def test_parts_of_a_gpu_must_add_up_to_whole_ones():
    half = "fit.gpus_per_task=0.5"
    assert make_worker_groups(run_file(half, "kubernetes.gpu.workers=2"), ["fit"])[0].gpus == 1
    with pytest.raises(RunFileError, match=r"0\.5 GPUs(.|\n)*kubernetes\.gpu\.workers"):
        make_worker_groups(run_file(half), ["fit"])


@pytest.mark.parametrize(
    ("worker", "task", "stages", "gpus"),
    [
        (1, 0.5, ["train"], [2]),
        (1, 0.5, ["fit"], [1]),
        (1, 0.5, ["train", "fit"], [2]),
        (1, 2, ["train", "evaluate"], [0, 4]),
        (0, 0.5, ["train", "fit", "evaluate"], [0, 1]),
        (1, 0, ["fit"], [0]),
        (0, 0.5, ["train", "evaluate"], [0]),
    ],
)
def test_pods_have_the_gpus_of_the_stages_that_they_run(worker, task, stages, gpus):
    several = [f"cluster.gpus_per_worker={worker}", f"fit.gpus_per_task={task}", "kubernetes.gpu.workers=2"]
    assert [group.gpus for group in make_worker_groups(run_file(*several), stages)] == gpus
