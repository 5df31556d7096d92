from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.fingerprint.scan_facts import ScanFacts
from medfuncta_dist.fingerprint.smallest_ranks import Drawn, Sample, rank_of
from tests.unit.fingerprint.test_suggestion import facts

NAMES = st.lists(st.text(max_size=8), unique=True, max_size=30)


def sample(names: list[str], size: int) -> list[str]:
    found: Sample[ScanFacts] = Sample(size)
    for name in names:
        found.add([Drawn(rank_of(name), facts((4, 4)))])
    assert len(found) == len(list(found))
    return [drawn.rank for drawn in found]


@given(NAMES, st.integers(1, 40), st.randoms())
def test_the_sample_does_not_depend_on_the_order(names: list[str], size: int, random: object) -> None:
    shuffled = sorted(names, key=lambda name: random.random())  # type: ignore[attr-defined]
    assert sample(names, size) == sample(shuffled, size) == sorted(map(rank_of, names))[:size]


@given(NAMES, st.integers(1, 20))
def test_samples_of_parts_make_the_sample_of_all(names: list[str], size: int) -> None:
    parts = [names[::2], names[1::2]]
    merged: Sample[ScanFacts] = Sample(size)
    for part in parts:
        merged.add(Drawn(rank, facts((4, 4))) for rank in sample(part, size))
    assert [drawn.rank for drawn in merged] == sample(names, size)


def test_scans_of_one_source_have_ranks_of_their_own() -> None:
    assert rank_of("a", "row/1") != rank_of("a", "row/2") != rank_of("arow/2")
    assert rank_of("caf\udce9") != rank_of("cafe")
