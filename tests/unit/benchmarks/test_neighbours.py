from __future__ import annotations

import numpy as np
import pytest

from benchmarks.neighbour_metrics import same_class
from tests.unit.benchmarks.test_benchmarks import result_of


@pytest.mark.slow
def test_neighbours() -> None:
    found = result_of("neighbours")["results"]
    assert found["3000 exact"]["recall"] == 1
    assert min(row["recall"] for row in found.values()) > 0.95


@pytest.mark.slow
def test_neighbour_metrics() -> None:
    found = result_of("neighbour_metrics")["results"]
    for kind in ("basis", "siren"):
        assert {"plain", "whitened", "image"} < found[kind].keys()
        assert 0 <= found[kind]["image"]["test"]["ten"] <= 1


def test_the_same_class_is_counted_by_class() -> None:
    there = np.arange(20.0)[:, None]
    classes = (np.arange(20) >= 10).astype(int)
    here, own = np.array([[0.0], [1.0], [19.0]]), np.array([0, 0, 0])
    assert same_class(there, classes, here, own) == {"one": pytest.approx(2 / 3), "ten": pytest.approx(2 / 3)}
    own = np.array([0, 0, 1])
    assert same_class(there, classes, here, own) == {"one": 1.0, "ten": 1.0}
    own = np.array([1, 0, 1])  # of class 0 all are right, of class 1 one of two
    assert same_class(there, classes, here, own) == {"one": 0.75, "ten": 0.75}
