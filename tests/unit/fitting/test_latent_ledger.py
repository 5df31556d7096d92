from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.fitting.fit_plan import FitWork, cover
from medfuncta_dist.fitting.latent_ledger import KIND, Commit, Quarantined, settle
from medfuncta_dist.storage.commit_record import Record
from tests.unit.fitting.test_fit_plan import shard

SCANS = 20
RANGE = FitWork("train", shard(1, SCANS), 0, SCANS)


def record(work: FitWork, generation: int = 0, reason: str = "", failed: bool = False) -> Record:
    keys = tuple(Quarantined(str(row), reason) for row in range(work.start, work.stop))
    commit = Commit(work.split, work.shard.sha256, work.start, work.stop, 0, None, keys, failed=failed)
    return Record(KIND, generation, commit.body(), f"{reason}{generation}{failed}")


def everything(work: FitWork) -> list[FitWork]:
    """The range and all pieces that it can have."""
    return [work, *(piece for part in work.divided() for piece in everything(part))]


RECORDS = st.lists(st.tuples(st.sampled_from(everything(RANGE)), st.integers(0, 3), st.booleans()), max_size=12)


@given(RECORDS, st.randoms())
def test_no_scan_counts_twice_in_whatever_order_records_came(found, random):
    records = [record(work, generation, failed=failed) for work, generation, failed in found]
    counting = settle(records)
    rows = [row for commit in counting.values() for row in range(commit.start, commit.stop)]
    assert len(rows) == len(set(rows))
    random.shuffle(records)
    assert settle(records) == counting


@given(RECORDS)
def test_what_is_settled_stays_settled_whatever_comes_late(late):
    pieces = RANGE.divided()
    records = [record(piece) for piece in pieces]
    records += [record(work, generation, failed=failed) for work, generation, failed in late]
    counting = settle(records)
    assert sum(commit.stop - commit.start for commit in counting.values()) == SCANS
    assert cover([RANGE], [name for name, commit in counting.items() if not commit.failed])[1] == []


def test_the_highest_generation_counts_and_a_failure_only_where_nothing_else_does():
    first, later = record(RANGE, 1, "first"), record(RANGE, 2, "later")
    failed = record(RANGE, 3, "failed", failed=True)
    assert settle([later, first])[RANGE.name].quarantined[0].reason == "later"
    assert settle([failed, first])[RANGE.name].quarantined[0].reason == "first"
    assert settle([failed])[RANGE.name].failed
    piece = RANGE.divided()[0]
    assert list(settle([failed, record(piece)])) == [piece.name]
