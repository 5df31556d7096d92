from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.latents.table_format import PartRef
from medfuncta_dist.neighbours import index_plan
from medfuncta_dist.neighbours.index_plan import FittedPart, blocks, kind_for, recipe, sample_scans, sampled_parts


def parts_of(rows: list[tuple[str, int]]) -> list[FittedPart]:
    return [FittedPart(split, PartRef(f"{n}", f"{n:064x}", 1), count) for n, (split, count) in enumerate(rows)]


ROWS = st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), st.integers(1, 60)), min_size=1, max_size=40)


@given(ROWS)
def test_every_part_is_in_one_block_of_its_own_split(rows: list[tuple[str, int]]) -> None:
    parts, most = parts_of(rows), 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_plan, "BLOCK_NUMBERS", most * 7)
        cut = blocks(parts, 7)
    assert sorted(one.part.path for block in cut for one in block) == sorted(one.part.path for one in parts)
    for block in cut:
        assert len({one.split for one in block}) == 1
        assert sum(one.rows for one in block) <= most


def test_below_a_hundred_thousand_an_index_is_exact() -> None:
    assert [kind_for(n) for n in (1, 99_999, 100_000, 499_999, 500_000)] == [
        "exact",
        "exact",
        "reduced",
        "reduced",
        "compressed",
    ]
    assert recipe("exact", 99_999, 2048, 4096) == "Flat"


def test_an_approximate_index_never_learns_more_than_its_sample_tells() -> None:
    assert recipe("reduced", 20, 8, 20).startswith("PCA8,")
    assert "PCA20," in recipe("reduced", 20, 64, 20)
    assert ",IVF1," in recipe("compressed", 20, 8, 20)
    assert ",IVF4000," in recipe("compressed", 1_000_000, 256, 262_144)


@given(ROWS, st.integers(1, 500))
def test_a_sample_is_whole_parts_and_always_the_same(rows: list[tuple[str, int]], wanted: int) -> None:
    parts = parts_of(rows)
    chosen = sampled_parts(parts, wanted)
    assert chosen == sampled_parts(parts[::-1], wanted)
    found = sum(one.rows for one in chosen)
    assert found >= min(wanted, sum(one.rows for one in parts))
    assert found - chosen[-1].rows < wanted


def test_a_sample_has_at_most_all_scans() -> None:
    assert sample_scans(10, 2048) == 10
    assert sample_scans(10**7, 2048) == 2**26 // 2048
    assert sample_scans(10**7, 2**16) == index_plan.LEAST_SAMPLE
