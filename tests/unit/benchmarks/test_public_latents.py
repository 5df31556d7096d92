from __future__ import annotations

import pytest

from benchmarks.public_latents import COMMANDS, SHORT_FILES, equal, names, write_files
from tests.unit.benchmarks.test_benchmarks import result_of


@pytest.mark.slow
def test_public_latents() -> None:
    found = result_of("public_latents")
    assert set(found["results"]) == {str(files) for files in SHORT_FILES}
    for result in found["results"].values():
        assert result["differ"] == 0
        assert all(result[name]["memory, MB"] > 0 for name in COMMANDS)
    assert len(found["claims"]) == 5


def test_a_file_that_differs_or_is_missing_is_seen(tmp_path) -> None:
    write_files(tmp_path / "in", 10)
    write_files(tmp_path / "out", 10)
    first, second = names(10)[:2]
    assert equal(tmp_path / "in" / first, tmp_path / "out" / first)
    assert not equal(tmp_path / "in" / first, tmp_path / "out" / second)
    assert not equal(tmp_path / "in" / first, tmp_path / "out" / "none")
