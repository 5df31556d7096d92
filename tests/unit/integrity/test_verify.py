"""Which runs are verified, and that one that cannot be read does not hide the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.integrity.verify import verify_target
from medfuncta_dist.storage.object_store import ObjectStore

GOOD = "name: good\nstorage: {root}\ndata: {{source: x.npz, shape: [8, 8]}}\n"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    store = ObjectStore(str(tmp_path))
    store.write("runs/good/run.yaml", GOOD.format(root=tmp_path).encode())
    return store


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", b"name: [", b"name: other\n", b"#" * 2**24])
def test_a_damaged_run_file_is_a_fault_and_the_other_runs_are_verified(
    store: ObjectStore, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write("runs/bad/run.yaml", data)
    with pytest.raises(IntegrityError, match="1 faults") as caught:
        verify_target(store.root, [])
    assert f"{store.uri('runs/bad/run.yaml')}: the run file" in caught.value.what
    assert "verify good: shards: nothing to check yet" in capsys.readouterr().err


def test_a_mistyped_override_is_no_damage(store: ObjectStore) -> None:
    assert list(verify_target(store.root, [])["runs"]) == ["good"]
    with pytest.raises(RunFileError):
        verify_target(store.root, ["train.stebs=1"])
