from __future__ import annotations

import numpy as np
import pytest

from benchmarks.latent_bytes import int8_bytes, smallest
from tests.unit.benchmarks.test_benchmarks import result_of


@pytest.mark.slow
def test_latent_bytes() -> None:
    found = result_of("latent_bytes")["results"]["sets"]
    assert [(one["set"], one["kind"]) for one in found] == [("pneumonia", "basis"), ("ecg", "basis"), ("ecg", "siren")]
    for one in found:
        assert one["curved"]["training loss"] <= 0.2
        assert one["curved"]["streams"] < one["curved"]["column"]


def test_int8_counts_at_its_smallest_and_with_its_scales() -> None:
    numbers = np.random.default_rng(0).integers(-127, 128, (2000, 50)).astype(np.int8)
    found = int8_bytes(numbers, np.ones(2000, np.float32))
    assert 50 * 255 / 256 <= found["zlib"] - 4 < 51
    assert found["parquet zstd"] > 50
    assert smallest({"int8": {"loss": 0.0, **found}}) == min(found.values())
