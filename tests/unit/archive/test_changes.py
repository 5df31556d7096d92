from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.archive.changes import Changes, SourceState, compare, differs
from tests.unit.archive.doubts import doubtful, is_open

Archive = dict[str, str]
"""Path → content."""
States = dict[str, SourceState]

PATHS = st.sampled_from("abcdefgh")
CONTENTS = st.sampled_from(["one", "two", "three", "ten", "six", ""])
ARCHIVES = st.dictionaries(PATHS, CONTENTS)


def states(archive: Archive, version: int = 0) -> dict[str, SourceState]:
    """Everything about each source; an empty file has no content that could be recognised."""
    return {
        path: SourceState(str(len(c)), f"{version} {len(c)}", f"probe {c[:1]}" if c else "", c)
        for path, c in archive.items()
    }


def unread(present: dict[str, SourceState]) -> dict[str, SourceState]:
    return {path: replace(state, content="") for path, state in present.items()}


def seen(before: Archive, after: Archive) -> Changes:
    """Contents are read only where that was asked for; what has not changed keeps its version."""
    packed = states(before)
    now = {
        p: replace(s, version=packed[p].version) if before.get(p) == after[p] else s
        for p, s in states(after, 1).items()
    }
    asked = set(doubtful(packed, unread(now)))
    return compare(packed, {p: s if p in asked else replace(s, content="") for p, s in now.items()})


def doubtful_of_all(packed: States, present: States, by_etag: Collection[str]) -> list[str]:
    """The same rule, which looks at every source."""
    fresh = [key for key, state in present.items() if key not in packed or differs(packed[key], state)]
    gone = [state.probe for key, state in packed.items() if key not in present]
    here = Counter(state.probe for state in present.values())
    shared = ({present[key].probe for key in fresh} & {*gone, *(p for p, n in here.items() if n > 1)}) - {""}
    return [
        key
        for key, state in present.items()
        if not state.content and (state.probe in shared or is_open(packed.get(key), state, key in by_etag))
    ]


def copies_of_all(packed: States, present: States) -> dict[str, str]:
    """Every present source whose bytes a same source, or an earlier one, has."""
    same = {key for key, state in present.items() if key in packed and not differs(packed[key], state)}
    held: dict[str, str] = {}
    for key in (*filter(same.__contains__, present), *(key for key in present if key not in same)):
        if content := present[key].content or (packed[key].content if key in same else ""):
            held.setdefault(content, key)
    return {k: held[c] for k in present if k not in same and (c := present[k].content) and held[c] != k}


FEW = st.sampled_from(["", "1", "2", "3"])
STATES = st.dictionaries(PATHS, st.builds(SourceState, FEW, FEW, FEW, FEW))


@given(packed=STATES, present=STATES, by_etag=st.sets(PATHS))
def test_whatever_is_known_the_sources_that_matter_are_enough(
    packed: States, present: States, by_etag: set[str]
) -> None:
    assert doubtful(packed, present, by_etag) == doubtful_of_all(packed, present, by_etag)
    assert compare(packed, present).copied == copies_of_all(packed, present)


@given(before=ARCHIVES, after=ARCHIVES)
def test_every_source_is_in_one_class(before: Archive, after: Archive) -> None:
    found = seen(before, after)
    present = [*found.new, *found.same, *found.changed, *found.renamed, *found.copied]
    assert sorted(present) == sorted(after)
    gone = [*found.removed, *found.renamed.values()]
    assert sorted(gone) == sorted(before.keys() - after.keys())


@given(before=ARCHIVES, after=ARCHIVES)
def test_what_is_packed_then_are_the_contents_of_the_archive_each_once(before: Archive, after: Archive) -> None:
    """Starting from a data set without copies, as the first pack makes it."""
    before = {p: c for p, c in before.items() if c and p == min(q for q, d in before.items() if d == c)}
    after = {p: c for p, c in after.items() if c}
    found = seen(before, after)
    held = [before[former] for former in found.renamed.values()]
    held += [after[path] for path in (*found.new, *found.same, *found.changed)]
    assert len(held) == len(set(held))
    assert set(held) == set(after.values())
    assert all(after[path] == after[original] for path, original in found.copied.items())
    assert all(after[path] == before[former] for path, former in found.renamed.items())
    assert all(before[path] != after[path] for path in found.changed)


@given(archive=ARCHIVES)
def test_an_unchanged_archive_asks_for_nothing_and_is_the_same(archive: Archive) -> None:
    packed = states(archive)
    assert doubtful(packed, unread(packed)) == []
    assert compare(packed, unread(packed)) == Changes(same=tuple(archive))


@given(archive=ARCHIVES)
def test_touched_sources_are_the_same(archive: Archive) -> None:
    packed, now = states(archive), states(archive, 1)
    found = compare(packed, now)
    assert found.same == tuple(p for p, c in archive.items() if c)
    assert found.changed == tuple(p for p, c in archive.items() if not c)  # nothing to read: packing it again is free


@given(archive=ARCHIVES)
def test_sources_of_earlier_versions_are_taken_as_they_are(archive: Archive) -> None:
    found = compare(dict.fromkeys(archive, SourceState()), states(archive))
    assert (found.same, found.uncompared) == (tuple(archive), len(archive))


def test_without_a_digest_of_what_was_packed_another_version_is_another_content() -> None:
    packed = {"a": SourceState("4", "0", "p")}
    assert compare(packed, {"a": SourceState("4", "1", "p", "c")}).changed == ("a",)


def test_a_source_that_could_not_be_read_and_now_can_is_another_one() -> None:
    packed = {"a": SourceState("4", "")}
    assert compare(packed, packed).same == ("a",)
    assert compare(packed, {"a": SourceState("4", "1", "p", "c")}).changed == ("a",)


def test_a_file_of_the_same_probe_is_read_before_it_is_taken_for_a_copy() -> None:
    packed = {"a": SourceState("4", "0", "p", "x")}
    present = packed | {"b": SourceState("4", "1", "p")}
    assert doubtful(packed, unread(present)) == ["a", "b"]
    assert compare(packed, packed | {"b": SourceState("4", "1", "p", "y")}).new == ("b",)
    assert compare(packed, packed | {"b": SourceState("4", "1", "p", "x")}).copied == {"b": "a"}
