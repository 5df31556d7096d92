"""More rows than a run holds come out sorted, each once, whatever their keys are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.latent_table.catalogue import sorted_runs
from medfuncta_dist.latent_table.catalogue.sorted_runs import SortedRuns
from tests.unit.latent_table.catalogue.entries import random_keys, rows_of


@given(st.lists(st.lists(st.text("0123456789abcdefé", max_size=3), max_size=30), max_size=8))
@settings(max_examples=40)
def test_everything_comes_out_sorted_and_once(
    tmp_path_factory: pytest.TempPathFactory, tables: list[list[str]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_runs, "RUN_ROWS", 16)
        patch.setattr(sorted_runs, "STRIDE", 4)
        runs = SortedRuns(tmp_path_factory.mktemp("runs"))
        for keys in tables:
            runs.add(rows_of(keys))
        pieces = [piece["key"].to_pylist() for piece in runs.merged()]
    assert [key for piece in pieces for key in piece] == sorted(key for keys in tables for key in keys)
    for before, after in pairwise(pieces):
        assert before[-1] < after[0]


def test_no_piece_is_much_larger_than_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_runs, "RUN_ROWS", 256)
    monkeypatch.setattr(sorted_runs, "STRIDE", 8)
    runs = SortedRuns(tmp_path)
    for seed in range(40):
        runs.add(rows_of(random_keys(100, seed)))
    pieces = list(runs.merged())
    assert sum(piece.num_rows for piece in pieces) == 4000
    assert max(piece.num_rows for piece in pieces) <= 3 * 256
    assert len(list(tmp_path.iterdir())) == 14


def test_no_rows_are_no_piece(tmp_path: Path) -> None:
    assert list(SortedRuns(tmp_path).merged()) == []
    runs = SortedRuns(tmp_path)
    runs.add(rows_of([]))
    assert pa.concat_tables([rows_of([]), *runs.merged()]).num_rows == 0
