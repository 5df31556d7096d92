from __future__ import annotations

from benchmarks.latent_table import SHORT
from tests.unit.benchmarks.test_benchmarks import result_of


def test_latent_table() -> None:
    found = result_of("latent_table")
    assert len(found["claims"]) == 5
    assert 0 < found["results"]["finding"]["least_ms"] <= found["results"]["finding"]["median_ms"]
    assert found["results"]["loading"]["catalogue_read_share"] > 0
    assert all(min(speeds) > 0 for speeds in found["results"]["loading"]["scans_per_s"].values())
    assert found["results"]["sizes"] == SHORT
