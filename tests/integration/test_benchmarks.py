"""The benchmark that needs Ray."""

from __future__ import annotations

import pytest

from benchmarks.fanout import measure_fan_out, measure_plan


@pytest.mark.usefixtures("ray_cluster")
def test_the_drivers_cost_is_measured() -> None:
    flown = measure_fan_out(200)
    assert flown["tasks"] == 200
    assert flown["ms_per_shard"] == pytest.approx(flown["seconds"] / 200 * 1e3)
    assert 0 <= flown["driver_growth_mb"] < 100


def test_planning_is_measured_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "")  # restored afterwards: the benchmark has a server of its own
    planned = measure_plan(20)
    assert (planned["shards"], planned["scans"], planned["committed"]) == (20, 20_000, 10)
    parts = planned["open_seconds"] + planned["list_seconds"]
    assert planned["seconds"] == pytest.approx(parts + planned["plan_seconds"])
    assert 0 < planned["peak_gb"] < 1
