from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import IntegrityError
from medfuncta_dist.packing.pack_ledger import total
from medfuncta_dist.packing.pack_record import PackRecord, group_name, read_pack, read_packs, settle, write_pack
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from tests.unit.shards.samples import key_of, shard

groups = st.lists(st.frozensets(st.integers(0, 8), min_size=1), max_size=8, unique=True)


def record(*sources: int) -> PackRecord:
    keys = [key_of(s) for s in sources]
    return PackRecord(group_name(keys), keys, {"train": (shard(sum(sources)),)}, (), total([]))


def test_what_is_committed_is_read(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    entry = {"kind": "scan", "key": key_of(7), "source": key_of(1), "item": "row/7", "reason": "not finite"}
    one, two = record(1, 2), record(3)
    one = PackRecord(one.name, one.sources, one.splits, (entry,), one.counts)
    for each in (one, two):
        write_pack(store, "d", each, fence=ALONE)
    read = read_pack(store, "d", one.name)
    assert read is not None
    assert (list(read.sources), read.splits, list(read.quarantined)) == (one.sources, one.splits, [entry])
    assert [r.name for r in read_packs(store, "d")] == sorted([one.name, two.name])
    assert read_pack(store, "d", key_of("none")) is None


def test_a_record_copied_to_another_name_is_refused(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    write_pack(store, "d", record(1), fence=ALONE)
    data = store.read(f"datasets/d/packs/{record(1).name}.json")
    store.write(f"datasets/d/packs/{record(2).name}.json", data)
    with pytest.raises(IntegrityError, match="another record's name"):
        read_packs(store, "d")


def test_a_group_is_named_by_its_set_of_sources() -> None:
    assert group_name(["a", "b"]) == group_name(["b", "a"]) != group_name(["a"])


@given(groups=groups, order=st.randoms())
def test_no_source_counts_twice_and_the_order_of_arrival_changes_nothing(
    groups: list[frozenset[int]], order: Random
) -> None:
    records = [record(*sorted(group)) for group in groups]
    settled = settle(records)
    counted = [key for r in settled for key in r.sources]
    assert len(counted) == len(set(counted))
    order.shuffle(records)
    assert [r.name for r in settle(records)] == [r.name for r in settled]
    # What was ignored was ignored for a reason.
    ignored = [r for r in records if r.name not in {s.name for s in settled}]
    assert all(set(r.sources) & set(counted) for r in ignored)


@given(groups=groups, late=st.frozensets(st.integers(0, 8), min_size=1))
def test_a_late_record_displaces_nothing_that_a_snapshot_holds(
    groups: list[frozenset[int]], late: frozenset[int]
) -> None:
    held = settle(record(*sorted(group)) for group in groups)
    names = [r.name for r in held]
    again = settle([*held, record(*sorted(late))], first=names)
    assert [r.name for r in again][: len(names)] == names
