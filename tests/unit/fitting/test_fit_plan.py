from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fitting.fit_plan import FitWork, cover, cut_before, plan, ranges
from medfuncta_dist.shards.snapshot import Shard, Snapshot

SIZES = st.dictionaries(st.sampled_from(["train", "val", "test"]), st.lists(st.integers(1, 50), max_size=5), max_size=3)


def shard(number: int, samples: int) -> Shard:
    return Shard(f"shards/{number}.tar", 1, f"{number:064x}", samples, f"indexes/{number}.parquet", 1, "0" * 64)


def snapshot(sizes: dict[str, list[int]]) -> Snapshot:
    """Shards of these sizes; their digests are all different."""
    splits = {
        split: tuple(shard((1000 * i + j) * 2**160, n) for j, n in enumerate(counts))
        for i, (split, counts) in enumerate(sorted(sizes.items()))
    }
    return Snapshot(name="d", parent=None, contract={}, splits=splits)


def scans(works: list[FitWork]) -> list[tuple[str, int]]:
    return [(work.shard.sha256, row) for work in works for row in range(work.start, work.stop)]


@given(SIZES, st.integers(1, 20))
def test_every_scan_is_in_exactly_one_range(sizes, scans_per_task):
    whole = snapshot(sizes)
    wanted = [(s.sha256, row) for shards in whole.splits.values() for s in shards for row in range(s.samples)]
    works = ranges(whole, None, scans_per_task)
    assert sorted(scans(works)) == sorted(wanted)
    assert all(0 < work.units <= scans_per_task for work in works)


@given(SIZES, st.integers(1, 20), st.randoms())
def test_what_is_left_is_what_was_not_committed(sizes, scans_per_task, random):
    works = ranges(snapshot(sizes), None, scans_per_task)
    done = {work.name for work in works if random.random() < 0.5}
    left = plan(snapshot(sizes), None, done, scans_per_task)
    assert [w for w in works if w.name not in done] == left


@given(SIZES, st.integers(1, 20), st.integers(1, 30))
def test_a_newer_snapshot_adds_ranges_and_renames_none(sizes, scans_per_task, samples):
    older = snapshot(sizes)
    newer = Snapshot("d", older.digest, {}, {**older.splits, "extra": (shard(2**255, samples),)})
    before, after = ({w.name for w in ranges(s, None, scans_per_task)} for s in (older, newer))
    left = plan(newer, None, before, scans_per_task)
    assert before < after
    assert {w.split for w in left} == {"extra"}
    assert sum(w.units for w in left) == samples


def test_names_hold_the_shard_and_the_range():
    (first, second) = ranges(snapshot({"train": [5]}), ["train"], 3)
    assert first.name.endswith("-00000000-00000003")
    assert second.name.endswith("-00000003-00000005")
    assert first.name.startswith(first.shard.sha256[:24])


def test_a_split_that_is_not_there_is_refused_by_name():
    with pytest.raises(RunFileError, match="'tset'") as error:
        ranges(snapshot({"train": [1], "test": [1]}), ["tset"], 1)
    assert "test, train" in str(error.value)


def test_only_the_splits_asked_for_are_planned():
    works = ranges(snapshot({"train": [2], "test": [3]}), ["test"], 10)
    assert [(w.split, w.stop) for w in works] == [("test", 3)]


@given(st.integers(2, 2000))
def test_pieces_make_up_their_range_and_end_at_single_scans(scans):
    work, depth = FitWork("train", shard(1, scans), 0, scans), 0
    pieces = [work]
    while divided := [p for piece in pieces for p in piece.divided()]:
        pieces, depth = [p for piece in pieces for p in (piece.divided() or [piece])], depth + 1
        assert pieces[0].start == 0
        assert all(a.stop == b.start for a, b in pairwise(pieces))
        assert pieces[-1].stop == scans
        assert len(divided) <= scans
    assert [p.units for p in pieces] == [1] * scans
    assert depth <= 4


@given(st.integers(2, 300), st.randoms())
def test_a_divided_range_is_covered_by_what_is_committed_and_what_is_left(scans, random):
    work, names = FitWork("train", shard(1, scans), 0, scans), set()

    def commit_some(piece: FitWork) -> None:
        if random.random() < 0.4:
            names.add(piece.name)
        else:
            for smaller in piece.divided():
                commit_some(smaller)

    for piece in work.divided():
        commit_some(piece)
    done, left = cover([work], names)
    assert {p.name for p in done} == names
    assert sorted(row for p in (*done, *left) for row in range(p.start, p.stop)) == list(range(scans))


@given(SIZES, st.integers(1, 60), st.randoms())
def test_how_a_table_was_cut_is_known_by_any_of_its_ranges(sizes, scans_per_task, random):
    """Or by pieces of them; to the size that matters: with it, every committed range is one again."""
    whole, names = snapshot(sizes), set()
    for work in ranges(whole, None, scans_per_task):
        if random.random() < 0.5:
            names |= {piece.name for piece in work.divided()} if random.random() < 0.2 else {work.name}
    size = cut_before(whole, names | {f"{'f' * 24}-00000000-00000099"})
    if not names:
        assert size is None
    elif size is not None:
        assert {work.name for work in cover(ranges(whole, None, size), names)[0]} == names


@given(st.integers(1, 50), st.lists(st.integers(1, 200), min_size=1, max_size=5))
def test_one_whole_range_is_enough(scans_per_task, counts):
    whole = snapshot({"train": counts})
    works = ranges(whole, None, scans_per_task)
    for work in (work for work in works if work.units == scans_per_task):
        again = ranges(whole, None, cut_before(whole, {work.name}))
        assert cover(again, {work.name})[0] == [work], "or a piece of one"
    if max(counts) >= scans_per_task:
        assert cut_before(whole, {work.name for work in works}) == scans_per_task
