"""What a prior's workers begin with is refused where it is damaged, by an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.errors import IntegrityError, ObjectMissingError
from medfuncta_dist.prior.prior_subject import COORDINATES_FILE, read_coordinates
from medfuncta_dist.storage.object_store import ObjectStore


def test_damaged_coordinates_are_refused(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    with pytest.raises(ObjectMissingError):
        read_coordinates(store, "prior")
    store.write(f"prior/{COORDINATES_FILE}", b"no safetensors")
    with pytest.raises(IntegrityError, match="no coordinates of a prior") as caught:
        read_coordinates(store, "prior")
    assert "train-prior again" in caught.value.do
