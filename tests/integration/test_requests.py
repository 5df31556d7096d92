"""Requests to S3 that a shard, a training step and a waiting driver cost: who adds some, sees it here.

The numbers are benchmarks/results/request_counts.json, which `python -m tests.integration.request_counts` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.counting_server import RequestCounts
from tests.integration.request_counts import RESULTS, Counts, counted_s3, of_idle_minute, of_shards, of_steps

pytestmark = pytest.mark.timeout(300)
RECORDED: dict[str, Counts] = json.loads(RESULTS.read_text())


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RequestCounts]:
    with counted_s3(tmp_path_factory.mktemp("counted")) as found:
        yield found


def test_a_shard_costs_so_many_requests_to_pack_and_to_fit(counts: RequestCounts, tmp_path: Path) -> None:
    found = of_shards(counts, tmp_path)
    assert found == {name: RECORDED[name] for name in ("a packed shard", "a fitted shard")}


def test_a_training_step_costs_none(counts: RequestCounts, tmp_path: Path) -> None:
    """What a run reads and writes depends on its shards, its checkpoints and its hours."""
    assert of_steps(counts, tmp_path) == {"a training step": {}} == {"a training step": RECORDED["a training step"]}


def test_a_driver_that_waits_costs_few(counts: RequestCounts) -> None:
    found, recorded = of_idle_minute(counts)["an idle minute"], RECORDED["an idle minute"]
    # A period may begin or end within the minute, and a slow machine has fewer of them.
    assert set(found) <= set(recorded), counts.paths
    assert all(recorded[kind] / 2 <= number <= recorded[kind] + 3 for kind, number in found.items()), counts.paths
