from __future__ import annotations

from typing import Any

import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.config.sections.kubernetes_section import Kubernetes
from medfuncta_dist.submit.manifest.worker_groups import make_worker_groups
from medfuncta_dist.submit.status.run_cost import compute_hourly_cost, count_gpus


def run(workers: Any = 4, gpus_per_worker: float = 1, **prices: Any) -> RunFile:
    return RunFile.model_validate(
        {
            "name": "x",
            "storage": "s3://bucket/x",
            "data": {"source": "s3://bucket/in/*.npz", "shape": [8, 8]},
            "cluster": {"workers": workers, "gpus_per_worker": gpus_per_worker, "cpus_per_worker": 3},
            "kubernetes": {"prices": {"currency": "EUR", **prices}, "head": {"cpus": 2}},
        }
    )


def test_gpus_are_held_by_the_stages_that_compute() -> None:
    assert count_gpus(run(), ["train"]) == count_gpus(run([2, 4]), ["pack", "fit"]) == 4
    assert (
        count_gpus(run(), ["pack"])
        == count_gpus(run(), ["evaluate"])
        == count_gpus(run(gpus_per_worker=0), ["fit"])
        == 0
    )


def test_tasks_that_share_a_gpu_hold_their_share_and_training_whole_ones() -> None:
    shared = run(8)
    shared = shared.model_copy(update={"fit": shared.fit.model_copy(update={"gpus_per_task": 0.25})})
    assert (count_gpus(shared, ["fit"]), count_gpus(shared, ["train"]), count_gpus(shared, ["train", "fit"])) == (
        2,
        8,
        8,
    )


def test_a_gpus_price_covers_its_cpus_and_the_heads_are_paid_apart() -> None:
    prices = {"gpu_hour": 2.5, "cpu_hour": 0.05}
    assert compute_hourly_cost(run(**prices), ["train"]).per_hour == pytest.approx(4 * 2.5 + 2 * 0.05)
    assert compute_hourly_cost(run(**prices), ["pack"]).per_hour == pytest.approx((2 + 4 * 3) * 0.05)
    assert compute_hourly_cost(run(gpu_hour=2.5), ["train"]).per_hour == pytest.approx(10.0)
    assert compute_hourly_cost(run(**prices), ["train"]).currency == "EUR"


def test_what_is_paid_is_what_the_pods_hold() -> None:
    """Whole pods, as many as the run file asks for; and a job of all stages holds both kinds."""
    asked = run(gpu_hour=2.5, cpu_hour=0.05)
    for stages in (["pack"], ["train"], ["pack", "train"]):
        for settings in ({}, {"gpu": {"pods": 3}, "cpu": {"workers": 3}}, {"gpu": {"workers": 3}, "cpu": {"pods": 7}}):
            kubernetes = Kubernetes.model_validate({**asked.kubernetes.model_dump(), **settings})
            given = asked.model_copy(update={"kubernetes": kubernetes})
            groups = make_worker_groups(given, stages)
            held = sum(group.max_pods * group.gpus for group in groups)
            cores = 2 + sum(group.max_pods * group.cpus for group in groups if not group.gpus)
            assert count_gpus(given, stages) == held
            assert compute_hourly_cost(given, stages).per_hour == pytest.approx(2.5 * held + 0.05 * cores)


def test_without_the_price_that_counts_nothing_is_claimed() -> None:
    assert compute_hourly_cost(run(), ["train"]).per_hour is None
    assert compute_hourly_cost(run(cpu_hour=0.05), ["train"]).cost(3600) is None
    assert compute_hourly_cost(run(gpu_hour=2.5), ["pack"]).per_hour is None
