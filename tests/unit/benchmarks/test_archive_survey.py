from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.archive_survey import assemble, join, make_parts, sum_up
from tests.unit.benchmarks.test_benchmarks import result_of

ROWS = 3000


@pytest.mark.slow
def test_archive_survey() -> None:
    found = result_of("archive_survey")
    survey = found["results"]["survey"]
    assert survey["ratio"] == pytest.approx(
        sum(bare / surveyed for bare, surveyed in zip(*survey["seconds"].values(), strict=True)) / 2, rel=1e-2
    )
    assert len(found["claims"]) == 3


def test_the_simulated_archive_has_every_slice_once(tmp_path: Path) -> None:
    make_parts(tmp_path, ROWS)
    join(tmp_path, ROWS)
    assert sum_up(tmp_path, ROWS) == {"patients": 8, "series": 30}
    assert assemble(tmp_path, ROWS) == {"volumes": 30, "usable": ROWS}
