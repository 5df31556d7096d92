"""Which runs are verified, and that one that cannot be read does not hide the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from medfuncta_dist.errors import IntegrityError, RunFileError
from medfuncta_dist.integrity.verify import _dataset, verify_target
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.task_map import map_here
from tests.unit.shards.samples import run_file
from tests.writers import write_nifti

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


def test_it_says_by_what_the_splits_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set's part alone, with the fan-out that needs no cluster."""
    monkeypatch.setattr("medfuncta_dist.integrity.verify.cpu_fan_out", lambda run: map_here)
    (tmp_path / "archive").mkdir()
    write_nifti(tmp_path / "archive" / "sub-1.nii.gz", shape=(8, 8, 12))
    for name, data, by, words in (
        (
            "slabs",
            {"slices": {}, "slabs": {"size": 3, "period": 3, "gap": 1}},
            "slabs",
            "every patient is in several splits",
        ),
        ("whole", {"slices": {}}, "patient", "splits by patient"),
    ):
        run = run_file(tmp_path, shape=[8, 8], dataset=name, **data)
        pack(run, map_here, lambda progress: None)
        figures, line, faults = _dataset(run, ObjectStore(run.storage))
        assert (figures["splits_by"], faults) == (by, [])
        assert words in line
