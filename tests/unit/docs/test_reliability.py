from __future__ import annotations

from tests.chaos.hostile_counts import MARK, counts
from tests.chaos.page import between


def test_the_page_counts_the_hostile_inputs_that_there_are() -> None:
    """Else: python -m tests.chaos.hostile_counts"""
    assert between(MARK) == counts()
