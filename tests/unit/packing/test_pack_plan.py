from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.archive.changes import SourceState
from medfuncta_dist.config.sections.data_section import Data
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.packing.archive_sources import ArchiveSources
from medfuncta_dist.packing.pack_ledger import total
from medfuncta_dist.packing.pack_plan import plan as plan_on_disk
from medfuncta_dist.packing.pack_record import PackRecord, StoredPack, group_name
from medfuncta_dist.packing.present_sources import Present, PresentSources
from medfuncta_dist.packing.recorded_sources import RecordedSources
from medfuncta_dist.packing.sources.pack_source import PackSource
from medfuncta_dist.packing.sources.series_sources import SeriesSources
from medfuncta_dist.packing.sources.source_list import list_sources
from medfuncta_dist.packing.sources.source_rows import SourceRows
from medfuncta_dist.packing.work_tables import work_tables
from medfuncta_dist.scans.scan_key import KeyMaker
from tests.unit.shards.samples import key_of
from tests.writers import write_png

KEYS = KeyMaker(bytes(32))


def source(n: int) -> PackSource:
    return PackSource(key_of(n), f"/archive/{n}", str(n), path=str(n), state=SourceState("1", "1"))


@dataclass(frozen=True)
class Planned:
    groups: list[tuple[PackSource, ...]]
    records: list[PackRecord]


def plan(sources: Sequence[PackSource], records: Sequence[PackRecord], packed: Sequence[str], size: int) -> Planned:
    """The plan of what is on disk."""
    with work_tables(None) as tables:
        recorded, files = RecordedSources(tables), SourceRows(tables)
        recorded.add(StoredPack(one, f"{number}.json", 0) for number, one in enumerate(records))
        recorded.settle(packed)
        files.add(sources)
        present, series = PresentSources(tables), SeriesSources(tables, Data(source="a", shape=[8, 8]), KEYS)
        present.add(Present(s.relative, s.key, SourceState("1", "1"), s.size) for s in files)
        recorded.learn([(s.key, SourceState("1", "1")) for s in sources])
        present.mark_fresh()
        made = plan_on_disk(ArchiveSources(tables, series), recorded, packed, size)
        return Planned(list(made.groups), [next(r for r in records if r.name == found.name) for found in made.records])


def record(keys: list[str]) -> PackRecord:
    return PackRecord(group_name(keys), keys, {}, (), total([]))


@given(
    sources=st.sets(st.integers(0, 40)),
    earlier=st.lists(st.sets(st.integers(0, 40), min_size=1), max_size=5),
    size=st.integers(1, 9),
)
def test_every_source_is_done_or_in_exactly_one_group(sources: set[int], earlier: list[set[int]], size: int) -> None:
    archive = sorted(map(source, sources), key=lambda source: source.relative)
    made = plan(archive, [record([key_of(n) for n in group]) for group in earlier], (), size)
    done = [key for r in made.records for key in r.sources]
    todo = [s.key for group in made.groups for s in group]
    assert len(done) == len(set(done))
    assert len(todo) == len(set(todo))
    assert not set(todo) & set(done)
    assert {s.key for s in archive} <= set(todo) | set(done)
    assert set(todo) <= {s.key for s in archive}
    assert all(len(group) <= size for group in made.groups)


@given(n=st.integers(0, 40), size=st.integers(1, 9), finished=st.sets(st.integers(0, 40)))
def test_a_rerun_finds_the_same_groups_whichever_had_finished(n: int, size: int, finished: set[int]) -> None:
    archive = list(map(source, range(n)))
    first = plan(archive, [], (), size).groups
    records = [record([s.key for s in group]) for i, group in enumerate(first) if i in finished]
    again = plan(archive, records, (), size).groups
    assert again == [group for i, group in enumerate(first) if i not in finished]


def test_printing_a_source_does_not_tell_where_it_lies() -> None:
    assert "Doe" not in repr(PackSource(key_of(1), "/archive/Doe^Jane", "Doe^Jane"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for split in ("one", "two"):
        (tmp_path / split).mkdir()
        for n in range(2):
            write_png(tmp_path / split / f"{n}.png")
    return tmp_path


def test_sources_are_keyed_by_their_relative_path(archive: Path) -> None:
    found = list_sources(Data(source=str(archive), shape=[8, 8]), KEYS).sources
    assert [s.relative for s in found] == ["one/0.png", "one/1.png", "two/0.png", "two/1.png"]
    assert [s.key for s in found] == [KEYS.source_key(s.relative) for s in found]
    assert {s.split for s in found} == {None}


def test_given_splits_may_use_the_same_file_names(archive: Path) -> None:
    data = Data(splits={"train": str(archive / "one"), "test": str(archive / "two")}, shape=[8, 8])
    found = list_sources(data, KEYS).sources
    assert [(s.split, s.relative) for s in found] == [
        ("test", "test/0.png"),
        ("test", "test/1.png"),
        ("train", "train/0.png"),
        ("train", "train/1.png"),
    ]
    assert len({s.key for s in found}) == 4


def test_one_file_in_two_splits_is_refused(archive: Path) -> None:
    data = Data(splits={"train": str(archive), "test": str(archive / "two")}, shape=[8, 8])
    with pytest.raises(RunFileError, match="2 source files belong to more than one split"):
        list_sources(data, KEYS)


def test_a_run_on_a_snapshot_has_nothing_to_pack() -> None:
    with pytest.raises(RunFileError, match="nothing to pack"):
        list_sources(Data(snapshot="0" * 64, shape=[8, 8]), KEYS)
