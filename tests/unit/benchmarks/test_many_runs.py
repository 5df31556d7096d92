from __future__ import annotations

import pytest

from tests.unit.benchmarks.test_benchmarks import result_of


@pytest.mark.slow
def test_many_runs() -> None:
    found = result_of("many_runs")["results"]
    assert found["heavy"] == 0
    assert found["list --storage"]["requests"] <= 4 + 4 * 50
    assert found["list --storage --limit 5"]["requests"] <= 4 + 4 * 5
