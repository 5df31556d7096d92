from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pack_memory import pack, record, write_survey
from medfuncta_dist.storage.object_store import ObjectStore
from tests.unit.benchmarks.test_benchmarks import result_of

ROWS = 3000
NONE = {"new": 0, "same": 0, "changed": 0, "renamed": 0, "copied": 0, "removed": 0}


@pytest.mark.slow
def test_pack_memory() -> None:
    found = result_of("pack_memory")
    assert len(found["claims"]) == 4
    assert found["results"]["series, 4000"]["same"]["changes"] == NONE | {"same": 40}


@pytest.mark.parametrize(
    ("layout", "first", "moved"),
    [
        ("files", NONE | {"new": ROWS}, NONE | {"same": ROWS - 90, "changed": 30, "renamed": 30, "removed": 30}),
        ("series", NONE | {"new": 30}, NONE | {"changed": 30}),
    ],
)
def test_the_simulated_changes_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, first: dict[str, int], moved: dict[str, int]
) -> None:
    monkeypatch.setattr(ObjectStore, "walk", ObjectStore.walk)  # put back at the end
    write_survey(tmp_path, layout, ROWS, "first")
    found = pack(tmp_path, layout, ROWS, "first")
    assert (found["changes"], found["tasks"]) == (first, {"files": 12, "series": 15}[layout])
    record(tmp_path, layout, ROWS, "first")
    write_survey(tmp_path, layout, ROWS, "same")
    again = pack(tmp_path, layout, ROWS, "same")
    assert (again["changes"], again["tasks"]) == (NONE | {"same": first["new"]}, 0)
    write_survey(tmp_path, layout, ROWS, "moved")
    assert pack(tmp_path, layout, ROWS, "moved")["changes"] == moved
