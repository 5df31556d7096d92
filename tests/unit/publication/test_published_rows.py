from __future__ import annotations

import pyarrow as pa
import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.publication.published_rows import Columns, published, require_plain_labels

ROWS = pa.table(
    {
        "key": ["a" * 64, "b" * 64],
        "latent": pa.array([[1.5, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "psnr": pa.array([30.0, 31.0], pa.float32()),
        "below_min": [False, True],
        "spacing": [[0.361328125, 0.0027777], [1.0, 5.0]],
        "window_low": [-1000.0, -0.0123456],
        "window_high": [1234.5, 0.0],
    }
)


def labels(*values: list[int]) -> list[pa.ChunkedArray]:
    return [pa.chunked_array([pa.array(values, pa.list_(pa.int32()))])]


def test_spacings_and_windows_keep_three_digits() -> None:
    rows = published(ROWS, Columns(named=("spacing", "window"))).to_pylist()
    assert [row["spacing"] for row in rows] == [[0.361, 0.00278], [1.0, 5.0]]
    assert [(row["window_low"], row["window_high"]) for row in rows] == [(-1000.0, 1230.0), (-0.0123, 0.0)]
    assert rows[0]["latent"] == [1.5, 2.0]


def test_rows_of_lists_in_several_pieces_stay_together() -> None:
    pieces = pa.concat_tables([ROWS.slice(1), ROWS])
    assert published(pieces, Columns()).column("spacing").to_pylist() == [[1.0, 5.0], [0.361, 0.00278], [1.0, 5.0]]


def test_ids_are_keys_only_where_they_are_asked_for() -> None:
    assert published(ROWS, Columns(keys=True))["id"].to_pylist() == ["a" * 64, "b" * 64]
    ids = published(ROWS, Columns())["id"].to_pylist()
    assert len({*ids, "a" * 64, "b" * 64}) == 4


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([[20240131], [0]], "dates"),
        ([[4711081500 % 2**31], [1]], "seven digits"),
        ([[n] for n in range(30)], "more than half of the values differ"),
    ],
)
def test_labels_that_look_like_identifiers_are_refused(values: list[list[int]], what: str) -> None:
    with pytest.raises(RunFileError, match=what) as refused:
        require_plain_labels(labels(*values))
    assert "leave --labels out" in refused.value.do


def test_classes_are_no_identifiers() -> None:
    require_plain_labels(labels(*[[n % 3, 0] for n in range(40)]) + labels([1, 1]))
    require_plain_labels(labels([], [1], [1, 2]))
    require_plain_labels([])


def test_numbers_that_differ_over_all_parts_are_found() -> None:
    parts = [part for start in range(0, 40, 4) for part in labels(*[[n] for n in range(start, start + 4)])]
    with pytest.raises(RunFileError, match="more than half"):
        require_plain_labels(parts)
