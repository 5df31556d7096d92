from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import IntegrityError, LostObjectError, RunFileError
from medfuncta_dist.latents.patch_format.row_groups import ENDING, GroupedFile, grouped_bytes, write_grouped
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.parsing import parquet

ROWS, PER_GROUP = 23, 4


def table() -> pa.Table:
    numbers = np.random.default_rng(0).standard_normal((ROWS, 50)).astype(np.float32)
    latents = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 50)
    return pa.table({"key": [f"{i:02}" for i in range(ROWS)], "latent": latents}).replace_schema_metadata({"a": "b"})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return ObjectStore(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def ref(store):
    return write_grouped(store, "t", table(), PER_GROUP)


def damaged(store: ObjectStore, ref, place: int) -> None:
    data = bytearray(store.read(f"t/{ref.path}"))
    data[place] ^= 1
    store.write(f"t/{ref.path}", bytes(data))


@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=9))
def test_the_rows_asked_for_in_the_order_asked(store, ref, rows):
    found = GroupedFile(store, "t", ref).take(rows)
    assert found.equals(table().take(pa.array(rows, pa.int64())).combine_chunks())
    assert found.schema.metadata[b"a"] == b"b"


def test_equal_tables_have_equal_bytes_and_other_groups_other_sums():
    assert grouped_bytes(table(), PER_GROUP) == grouped_bytes(
        pa.concat_tables([table().slice(0, 5), table().slice(5)]), PER_GROUP
    )
    assert grouped_bytes(table(), PER_GROUP) != grouped_bytes(table(), PER_GROUP + 1)


def test_only_the_groups_that_hold_the_rows_are_read_and_neighbours_at_once(store, ref, monkeypatch):
    opened, asked = GroupedFile(store, "t", ref), []
    whole = ObjectStore.read_range
    monkeypatch.setattr(ObjectStore, "read_range", lambda s, p, a, n: asked.append((a, n)) or whole(s, p, a, n))
    monkeypatch.setattr(ObjectStore, "read", lambda *_: pytest.fail("read whole"))
    opened.take([0, 5, 6, 21], ["latent"])
    spans = [opened._spans[number] for number in (0, 1, 5)]
    assert asked == [(spans[0][0], spans[1][1] - spans[0][0]), (spans[2][0], spans[2][1] - spans[2][0])]


def test_a_row_that_there_is_not(store, ref):
    with pytest.raises(IndexError, match="of 23"):
        GroupedFile(store, "t", ref).take([3, ROWS])


def test_damage_is_found_in_the_footer_and_in_the_group_that_is_read_and_nowhere_else(tmp_path: Path):
    store = ObjectStore(str(tmp_path))
    ref = write_grouped(store, "t", table(), PER_GROUP)
    start, stop = GroupedFile(store, "t", ref)._spans[2]
    damaged(store, ref, (start + stop) // 2)
    opened = GroupedFile(store, "t", ref)
    assert opened.take([0, 22]).num_rows == 2
    with pytest.raises(IntegrityError, match="not the one that was committed"):
        opened.take([2 * PER_GROUP])
    damaged(store, ref, ref.size - ref.footer + 3)
    with pytest.raises(IntegrityError, match="not the one that was committed"):
        GroupedFile(store, "t", ref)
    store.delete(f"t/{ref.path}")
    with pytest.raises(LostObjectError, match="missing"):
        GroupedFile(store, "t", ref)


def test_a_footer_that_would_not_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ObjectStore(str(tmp_path))
    footer = write_grouped(store, "t", table(), PER_GROUP).footer - ENDING
    monkeypatch.setattr(parquet, "LARGEST_FOOTER", footer)
    ref = write_grouped(store, "again", table(), PER_GROUP)
    assert GroupedFile(store, "again", ref).rows == ROWS
    monkeypatch.setattr(parquet, "LARGEST_FOOTER", footer - 1)
    with pytest.raises(RunFileError, match="too many to be read"):
        write_grouped(store, "more", table(), PER_GROUP)
    assert not list(store.list("more"))
