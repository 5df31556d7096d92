"""Rows of any number become files of bounded size, sorted by id, each row once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.publication.published_rows import random_ids
from medfuncta_dist.publication.shuffled_files import ShuffledFiles

PARTS = st.lists(st.tuples(st.sampled_from(["train", "test", "a_b"]), st.integers(1, 40)), min_size=1, max_size=12)


@settings(max_examples=30)
@given(PARTS, st.integers(1, 400))
def test_every_row_is_in_one_file_in_the_order_of_its_id(parts: list[tuple[str, int]], file_bytes: int) -> None:
    counts: dict[str, int] = {}
    for split, rows in parts:
        counts[split] = counts.get(split, 0) + rows
    with tempfile.TemporaryDirectory() as folder:
        aside, staged = Path(folder) / "aside", Path(folder) / "staged"
        aside.mkdir()
        expected: dict[str, list[str]] = {split: [] for split in counts}
        with ShuffledFiles(aside, counts, 10, file_bytes) as files:
            for split, rows in parts:
                ids = random_ids(rows)
                expected[split] += ids
                files.add(split, pa.table({"id": ids, "of": ids}))
            written = list(files.save(staged))
        assert list(aside.iterdir()) == []
        for split in counts:
            mine = [file for file in written if file.split == split]
            assert [file.path for file in mine] == [
                f"data/{split}-{number:05d}-of-{len(mine):05d}.parquet" for number in range(len(mine))
            ]
            found = pa.concat_tables([pq.read_table(staged / file.path) for file in mine])
            assert found["id"].to_pylist() == found["of"].to_pylist() == sorted(expected[split])
            assert sum(file.rows for file in mine) == counts[split]
        assert len(written) <= len(counts) + sum(counts.values()) * 10 / file_bytes


def test_ids_are_never_drawn_twice() -> None:
    ids = random_ids(10_000)
    assert len(set(ids)) == 10_000
    assert {len(one) for one in ids} == {32}
