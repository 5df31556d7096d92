from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.data_report.equal_samples import EqualSamples
from medfuncta_dist.data_report.report_content import content_of
from medfuncta_dist.data_report.tally import (
    MOST_DISTINCT,
    OTHERS,
    SPACING_EDGES,
    WINDOWS,
    ModalityTally,
    Place,
    lot_of,
    spacing_bin,
)
from medfuncta_dist.packing.pack_ledger import total
from medfuncta_dist.shards.snapshot import Snapshot
from tests.unit.shards.samples import key_of, shard

PICTURES = 3
SHARD = shard(0)


def meta(n: int, **fields: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "shape": [1, 8, 8],
        "dtype": "int16",
        "spacing": [1.0 + n % 3, 2.0],
        "affine": None,
        "window": [0.0, float(n)],
        "labels": [n % 2],
        "slice": None,
    }
    return known | fields


def tally(numbers: list[int], split: str = "train", **fields: Any) -> ModalityTally:
    found = ModalityTally()
    for n in numbers:
        found.count(meta(n, **fields), Place(key_of(n), split, SHARD, n), PICTURES)
        found.measure(np.array([[-5, 0, 10, 99]]), 0.0, float(n))
    return found.finished(PICTURES)


def content(found: ModalityTally) -> dict[str, Any]:
    snapshot = Snapshot("d", None, {"group": "patient"}, {"train": [SHARD]}, counts=total([]))
    everything = content_of(snapshot, {"CT": found}, None, EqualSamples(0, 0), None, None)
    section: dict[str, Any] = everything["modalities"]["CT"]
    return section


@given(st.lists(st.integers(1, 400), unique=True, min_size=1, max_size=60), st.integers(0, 60), st.randoms())
def test_tallies_of_shards_add_up_in_any_order(numbers: list[int], cut: int, random: Any) -> None:
    parts = [numbers[:cut], numbers[cut:]]
    random.shuffle(parts)
    merged = ModalityTally()
    for part in parts:
        merged.add(tally(part), PICTURES)
    whole = tally(numbers)
    assert content(merged) == content(whole)
    assert [p.key for p in sorted(merged.places)] == [p.key for p in sorted(whole.places)]
    assert len(merged.places) == min(PICTURES, len(numbers))
    assert min(map(lot_of, map(key_of, numbers))) in [lot_of(place.key) for place in merged.places]


def test_what_is_kept_does_not_grow_with_the_samples() -> None:
    found = ModalityTally()
    for start in range(0, 4000, 500):
        many = [meta(n, spacing=[1.0 + n, 2.0], labels=[n]) for n in range(start, start + 500)]
        part = ModalityTally()
        for n, one in enumerate(many, start):
            part.count(one, Place(key_of(n), "train", SHARD, n), PICTURES)
        assert len(part.windows) <= 2 * WINDOWS
        found.add(part.finished(PICTURES), PICTURES)
    assert found.scans == 4000
    assert (len(found.windows), len(found.places)) == (WINDOWS, PICTURES)
    assert len(found.spacings) <= MOST_DISTINCT + 1
    assert sum(found.spacings.values()) == sum(found.labels.values()) == 4000
    assert found.labels["train", OTHERS] > 0
    assert found.spacing_bins.sum(axis=1).tolist() == [4000, 4000, 0]


def test_values_are_counted_by_where_they_are_in_the_window() -> None:
    found = ModalityTally()
    found.measure(np.array([[-3, 0, 5, 10, 11]]), 0.0, 10.0)
    assert found.beyond.tolist() == [1, 1, 5]
    assert found.value_bins.sum() == 3
    assert (found.value_bins[0], found.value_bins[25], found.value_bins[-1]) == (1, 1, 1)
    found.measure(np.full((1, 4), 7), 7.0, 7.0)
    assert found.value_bins.sum() == 3


@pytest.mark.parametrize(("spacing", "expected"), [(1.0, 30), (0.0, 0), (1e-9, 0), (1e9, 59), (10.0, 40), (0.1, 20)])
def test_bins_of_spacing(spacing: float, expected: int) -> None:
    assert spacing_bin(spacing) == expected
    assert len(SPACING_EDGES) == 61
