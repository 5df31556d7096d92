"""The settings that a run's next command must repeat."""

from __future__ import annotations

from pathlib import Path

from medfuncta_dist.config.load import dump, load
from medfuncta_dist.run.begun_overrides import find_overrides, list_overrides
from medfuncta_dist.run.frozen_run_file import fixed_part, run_path
from medfuncta_dist.storage.object_store import ObjectStore

TEXT = """
name: x
storage: {storage}
data: {{source: scans/*.png, shape: [16, 16]}}
train: {{steps: 10, batch: 8}}
"""
SETTINGS = ["train.seed=7", "data.shape=[8, 8]", "train.steps=20", "cluster.workers=3"]


def test_with_the_overrides_the_run_file_is_the_one_that_was_begun(tmp_path: Path) -> None:
    file, store = tmp_path / "run.yaml", ObjectStore(str(tmp_path / "storage"))
    file.write_text(TEXT.format(storage=tmp_path / "storage"))
    begun, given = load(file, SETTINGS), load(file)
    assert find_overrides(given, store) == ()
    store.write(run_path(begun), dump(begun).encode())
    found = find_overrides(given, store)
    assert "train.seed=7" in found
    assert not [text for text in found if text.startswith("cluster.")]  # it may change within a run
    assert fixed_part(load(file, found)) == fixed_part(begun)
    assert find_overrides(begun, store) == ()


def test_values_are_told_so_that_set_reads_them_again() -> None:
    given = {"a": {"n": 1, "t": "x", "l": [1], "m": {"One": 1}}, "b": None}
    begun = {"a": {"n": 2, "t": "s3://y/*.npz", "l": [1, 2], "m": {"One": 2}}, "b": "1"}
    assert list_overrides(given, begun) == ("a.n=2", "a.t=s3://y/*.npz", "a.l=[1, 2]", 'a.m={"One": 2}', 'b="1"')


def test_a_damaged_frozen_run_file_gives_none(tmp_path: Path) -> None:
    file, store = tmp_path / "run.yaml", ObjectStore(str(tmp_path / "storage"))
    file.write_text(TEXT.format(storage=tmp_path / "storage"))
    run = load(file)
    store.write(run_path(run), b"\xff")
    assert find_overrides(run, store) == ()
