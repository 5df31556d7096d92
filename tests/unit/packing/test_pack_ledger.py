from __future__ import annotations

import pytest

from medfuncta_dist.errors import IntegrityError, QuarantineLimitError
from medfuncta_dist.packing.pack_ledger import COUNTS, require_balance, require_few_quarantined, total

EVEN = total([]) | {
    "sources": 3,
    "sources_packed": 2,
    "sources_quarantined": 1,
    "scans": 10,
    "packed": 8,
    "quarantined": 2,
    "blank": 5,
}


def test_totals_have_every_count() -> None:
    assert total([]) == dict.fromkeys(COUNTS, 0)
    assert total([EVEN, EVEN]) == {name: 2 * EVEN[name] for name in COUNTS}


def test_what_balances_passes() -> None:
    require_balance(EVEN, "here")


@pytest.mark.parametrize("name", [name for name in COUNTS if name != "blank"])
@pytest.mark.parametrize("by", [-1, 1])
def test_one_scan_or_source_too_many_or_few_is_noticed(name: str, by: int) -> None:
    with pytest.raises(IntegrityError, match="not those packed plus those quarantined") as caught:
        require_balance(EVEN | {name: EVEN[name] + by}, "here")
    assert "verify" in caught.value.do


def test_a_quarantined_source_counts_as_one_scan() -> None:
    require_few_quarantined(EVEN, [], 3 / 11, "here")
    with pytest.raises(QuarantineLimitError, match="3 of 11 scans"):
        require_few_quarantined(EVEN, [], 0.27, "here")


def test_the_commonest_reasons_are_said() -> None:
    with pytest.raises(QuarantineLimitError, match="2 × not a readable file; 1 × damaged"):
        require_few_quarantined(EVEN, ["not a readable file", "damaged", "not a readable file"], 0.0, "here")


def test_nothing_found_is_nothing_lost() -> None:
    require_few_quarantined(total([]), [], 0.0, "here")
