from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.native_memory import SCALING, _make, pack_alone


@pytest.mark.parametrize("spacing", ["", "spacing"])
def test_a_volume_is_packed_and_its_memory_told(tmp_path: Path, spacing: str) -> None:
    _make(tmp_path / "volume.nii", (20, 16, 12), *SCALING["scaled"])
    found = pack_alone(tmp_path, spacing)
    assert 0 < found["gib"] < 64
    assert found["seconds"] > 0
