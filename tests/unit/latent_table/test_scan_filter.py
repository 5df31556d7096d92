"""A filter says the same of one scan as of all of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.latent_table.catalogue.catalogue_reader import Entry
from medfuncta_dist.latent_table.scan_filter import NO_LABEL, ScanFilter, labels_at

SCANS = st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(-2, 3), max_size=3)), max_size=30)
SPLITS = st.none() | st.sampled_from("abc") | st.lists(st.sampled_from("abcd"), max_size=3)
VALUES = st.integers(-2, 3) | st.lists(st.integers(-2, 3), max_size=3)
LABELS = st.none() | VALUES | st.dictionaries(st.integers(0, 2), VALUES, max_size=2)


def meets(split: str, labels: list[int], splits: object, wanted: object) -> bool:
    names = splits if isinstance(splits, list) else [splits]
    places = wanted if isinstance(wanted, dict) else {} if wanted is None else {0: wanted}
    values = {place: v if isinstance(v, list) else [v] for place, v in places.items()}
    known = splits is None or split in names
    return known and all(len(labels) > place and labels[place] in v for place, v in values.items())


@given(SCANS, SPLITS, LABELS, SPLITS)
def test_one_scan_and_many(scans, splits, labels, more):
    chosen = ScanFilter().with_also(splits, labels).with_also(more, None)
    column = pa.chunked_array(
        [[labels for _, labels in scans[:7]], [labels for _, labels in scans[7:]]], pa.list_(pa.int32())
    )
    table = pa.table({"split": pa.array([split for split, _ in scans], pa.string()), "labels": column})
    expected = [meets(s, found, splits, labels) and meets(s, found, more, None) for s, found in scans]
    assert chosen.mask(table).tolist() == expected
    assert [chosen.holds(Entry("k", s, tuple(found), 1.0, False, 0, 0)) for s, found in scans] == expected
    values, there = labels_at(column, 1)
    assert values.tolist() == [found[1] if len(found) > 1 else NO_LABEL for _, found in scans]
    assert there.tolist() == [len(found) > 1 for _, found in scans]


def test_a_sliced_column_has_the_labels_of_its_own_rows():
    column = pa.chunked_array([pa.array([[1], [2, 5], [], [4, 6]], pa.list_(pa.int32())).slice(1, 3)])
    assert labels_at(column, 1)[0].tolist() == [5, NO_LABEL, 6]
    assert np.array_equal(labels_at(column, 0)[1], [True, False, True])
