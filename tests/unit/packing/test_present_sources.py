"""What is asked of the tables on disk has the answers that dictionaries give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.archive.changes import Changes, SourceState, compare
from medfuncta_dist.packing.pack_record import PackRecord, StoredPack, group_name
from medfuncta_dist.packing.present_sources import Present, PresentSources
from medfuncta_dist.packing.recorded_sources import RecordedSources
from medfuncta_dist.packing.work_tables import PREFIX, Tables, key_bytes, key_text, path_bytes, path_text, work_tables
from medfuncta_dist.scans.scan_key import KeyMaker
from tests.unit.archive.doubts import doubtful, not_comparable

KEYS = KeyMaker(bytes(32))
NAMES = st.sampled_from("abcdefgh")
FEW = st.sampled_from(["", "1", "00" * 16, "ab" * 16])
STATE = st.builds(SourceState, FEW, FEW, FEW, FEW)
STATES = st.dictionaries(NAMES, STATE)
KINDS = st.dictionaries(NAMES, st.sampled_from(["etag", "bytes", "checksum"]))
OTHER = SourceState(size="other")

States = Mapping[str, SourceState]


@contextmanager
def compared(
    packed: States, present: States, by_etag: set[str], kinds: Mapping[str, str]
) -> Iterator[tuple[PresentSources, RecordedSources, Tables]]:
    """The states on disk. The packed ones are in records of two sources, as they come."""
    with work_tables(None) as tables:
        recorded, found = RecordedSources(tables), PresentSources(tables)
        keys = list(packed)
        groups = [keys[start : start + 2] for start in range(0, len(keys), 2)]
        records = [PackRecord(group_name(g), g, {}, (), {}, {key: packed[key] for key in g}) for g in groups]
        recorded.add(StoredPack(record, f"{n}.json", 0) for n, record in enumerate(records))
        recorded.settle([record.name for record in records])
        recorded.learn(())
        found.add(
            Present(key, key, state, 1, kind=kinds.get(key, ""), by_etag=key in by_etag)
            for key, state in present.items()
        )
        found.mark_fresh()
        yield found, recorded, tables


def merged(found: Changes, packed: States, present: States) -> dict[str, object]:
    """Everything but the sources that are only counted."""
    whole = compare(packed, present)
    assert found.counts == whole.counts
    assert set(found.new) <= set(whole.new)
    assert set(found.same) <= set(whole.same)
    names = ("changed", "renamed", "copied", "removed", "uncompared")
    assert {name: getattr(found, name) for name in names} == {name: getattr(whole, name) for name in names}
    assert list(found.renamed) == list(whole.renamed)
    assert list(found.copied) == list(whole.copied)
    return {name: getattr(found, name) for name in names}


@given(packed=STATES, present=STATES, by_etag=st.sets(NAMES), kinds=KINDS)
def test_the_same_sources_are_unsure(packed: States, present: States, by_etag: set[str], kinds: dict[str, str]) -> None:
    kinds = {key: kind for key, kind in kinds.items() if key in present}
    for several in (False, True):
        with compared(packed, present, by_etag, kinds) as (found, _, _):
            found.mark_unsure(several_kinds=several)
            asked = {*doubtful(packed, present, by_etag), *(not_comparable(packed, present, kinds) if several else ())}
            assert [key for _, key in found.unsure()] == [key for key in present if key in asked]


@given(packed=STATES, present=STATES, contents=st.dictionaries(NAMES, FEW), other=st.sets(NAMES))
def test_the_same_has_become_of_every_source(
    packed: States, present: dict[str, SourceState], contents: dict[str, str], other: set[str]
) -> None:
    with compared(packed, present, set(), {}) as (found, recorded, _):
        merged(found.compared(recorded), packed, present)
        found.mark_unsure(several_kinds=False)
        learned = {key: contents[key] for _, key in found.unsure() if key in contents}
        found.learn_contents(learned.items())
        found.mark_again()
        present = {k: replace(s, content=learned[k]) if k in learned else s for k, s in present.items()}
        merged(found.compared(recorded), packed, present)
        anew = dict.fromkeys(other & packed.keys(), OTHER)
        merged(found.compared_without(recorded, other), {**packed, **anew}, present)


PATHS = st.text(st.characters(exclude_categories=[]), min_size=1)


@given(paths=st.lists(PATHS))
def test_paths_on_disk_are_in_the_order_of_texts(paths: list[str]) -> None:
    assert [path_text(data) for data in sorted(map(path_bytes, paths))] == sorted(paths)


@given(text=st.one_of(st.text("0123456789abcdefABCDEF ", max_size=64), st.binary(max_size=32).map(bytes.hex)))
def test_keys_on_disk_are_the_same_texts(text: str) -> None:
    assert key_text(key_bytes(text)) == text


def test_nothing_of_the_tables_stays_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    left = tmp_path / "private" / f"{PREFIX}of-a-killed-process"
    left.parent.mkdir()
    left.touch()
    with work_tables(tmp_path / "private") as tables:
        tables.execute("CREATE TABLE paths AS SELECT 'Doe^Jane' AS path")
        assert list((tmp_path / "private").iterdir()) == []
        assert tables.execute("PRAGMA temp_store_directory").fetchone() == (str(tmp_path / "private"),)
    assert list((tmp_path / "private").iterdir()) == []
