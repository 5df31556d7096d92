"""Forgetting volumes of a DICOM series that grows, shrinks or is packed anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunChangedError
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place, preview
from medfuncta_dist.forget.forget_text import figures
from medfuncta_dist.integrity.repair_shards import repair_shards
from medfuncta_dist.scans.private.forgotten_list import ForgottenList, read_list, write_list
from medfuncta_dist.scans.private.forgotten_volumes import SERIES_CHANGED, UNKNOWN, VOLUME_CHANGED
from medfuncta_dist.scans.private.private_folder import load_salt
from medfuncta_dist.scans.scan_key import KeyMaker
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.publish import ALONE
from medfuncta_dist.task_map import map_here
from tests.unit.packing.test_dicom_series import instances, made, packed, reasons, run_of, samples
from tests.writers import write_nifti, write_series

ANOTHER, NEW, GONE, OTHER = 0, 1, 2, 3
"""Echoes of one series: the new one comes before both, and moves their places in it by one. (The first is a series of
its own.)"""
APART = 9000
"""What is added to the values of an echo per number, so that its mean tells which it is."""
NAMES = ("position", "instance")


def echo(folder: Path, number: int, first: int = 0, after: int = 8) -> list[Path]:
    """The slices from ``first`` to ``after`` of an echo; those that are there stay."""
    volume = made(number, (12, 10, 16)) + np.int16(APART * number)
    archive = folder / "archive" / str(number)
    paths = write_series(folder / "all" / str(number), volume, name="echo", seed=number, EchoNumbers=str(number))
    for index in range(first, after):
        dataset = pydicom.dcmread(paths[index])
        dataset.SOPInstanceUID = f"1.2.{number}.{index}"
        archive.mkdir(parents=True, exist_ok=True)
        dataset.save_as(archive / f"{index}.dcm")
    return [archive / f"{index}.dcm" for index in range(first, after)]


def echoes(run: RunFile) -> dict[str, int]:
    """Key → number of the echo of each packed scan."""
    return {key: round(float(s.array.mean()) + 1024) // APART for key, (_, _, s) in samples(run).items()}


def packed_echoes(run: RunFile) -> list[int]:
    return sorted(set(echoes(run).values()))


def forgot(run: RunFile, number: int = GONE, which: int = 0) -> str:
    """Forget one scan of an echo; its key."""
    found = samples(run)
    keys = [key for key, of in echoes(run).items() if of == number]
    key = sorted(keys, key=lambda key: found[key][1])[which]
    [_] = forget(open_place(run), Asked(keys=(key,)), map_here)
    return key


def two_echoes(folder: Path, **data: object) -> RunFile:
    for number in (GONE, OTHER):
        echo(folder, number)
    run = run_of(folder, **data)
    packed(run)
    assert {GONE, OTHER} <= set(packed_echoes(run))
    return run


def counts(run: RunFile) -> tuple[int, ...]:
    """Files of series in the newest snapshot: all, packed, quarantined, left out."""
    found = load_snapshot(ObjectStore(run.storage), run.dataset, None).counts
    return tuple(found[f"instances{kind}"] for kind in ("", "_packed", "_quarantined", "_left_out"))


def test_a_volume_that_comes_before_a_forgotten_one_does_not_take_its_key(tmp_path: Path) -> None:
    run = two_echoes(tmp_path)
    forgot(run)
    assert counts(run) == (8, 8, 0, 0)
    echo(tmp_path, NEW)
    summary = packed(run)
    assert packed_echoes(run) == [NEW, OTHER]
    assert instances(summary) == (16, 16, 0, 0)


def test_a_forgotten_volume_that_has_grown_does_not_come_back(tmp_path: Path) -> None:
    run = two_echoes(tmp_path)
    forgot(run)
    echo(tmp_path, NEW, after=9)
    echo(tmp_path, GONE, 8, 9)
    summary = packed(run)
    assert packed_echoes(run) == [NEW, OTHER]
    assert instances(summary) == (17, 17, 0, 0)


def test_other_volumes_stay_when_the_files_of_a_forgotten_one_are_removed(tmp_path: Path) -> None:
    run = two_echoes(tmp_path)
    kept = {key for key, number in echoes(run).items() if number == OTHER}
    forgot(run)
    for path in echo(tmp_path, GONE):
        path.unlink()
    packed(run)
    assert set(echoes(run)) == kept
    echo(tmp_path, NEW)  # it might be what was forgotten, for all that is known
    assert reasons(packed(run)) == {UNKNOWN: 1}
    assert set(echoes(run)) == kept


def test_what_is_left_of_a_forgotten_volume_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDFUNCTA_SALT", "00" * 32)  # with which it is not named by its last image
    run = two_echoes(tmp_path)
    forgot(run)
    key = KeyMaker(load_salt(tmp_path / "private"))
    names = {key.property_key("instance", f"1.2.{GONE}.{index}"): index for index in range(8)}
    for path in echo(tmp_path, GONE)[: names[min(names)] + 1]:  # without the one that it is named by
        path.unlink()
    echo(tmp_path, GONE, 8, 16)  # the rest, and more, is a volume without gaps
    summary = packed(run)
    assert packed_echoes(run) == [OTHER]
    assert reasons(summary) == {UNKNOWN: 1}


def test_a_data_set_of_an_earlier_version_keeps_its_keys(tmp_path: Path) -> None:
    run = two_echoes(tmp_path, volume_names="position")
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    assert "volume_names" not in snapshot.contract
    assert sorted(item for _, item, _ in samples(run).values()) == ["volume/0", "volume/1"]
    goes_on = run_of(tmp_path)
    assert packed(goes_on).snapshot_digest == snapshot.digest
    with pytest.raises(RunChangedError, match=r"data\.volume_names"):
        packed(run_of(tmp_path, volume_names="instance"))
    before = echoes(run)
    echo(tmp_path, NEW)  # as then, it takes the key of another
    packed(goes_on)
    assert set(before) < set(echoes(goes_on))
    assert packed_echoes(goes_on) == [NEW, GONE, OTHER]


def damaged(run: RunFile) -> list[str]:
    store = ObjectStore(run.storage)
    shards = [s.uri for split in load_snapshot(store, run.dataset, None).splits.values() for s in split]
    for uri in shards:
        store.write(uri, b"damaged")
    return shards


@pytest.mark.parametrize("names", NAMES)
def test_what_stays_of_a_series_can_be_repaired(tmp_path: Path, names: str) -> None:
    run = two_echoes(tmp_path, volume_names=names)
    forgot(run)
    before = samples(run)
    snapshot = load_snapshot(ObjectStore(run.storage), run.dataset, None)
    assert repair_shards(run, snapshot, damaged(run), map_here, ALONE) == []
    assert samples(run).keys() == before.keys()
    without_pieces(tmp_path)
    assert repair_shards(run, snapshot, damaged(run), map_here, ALONE) == []


def without_pieces(folder: Path) -> None:
    """The list as an earlier version wrote it."""
    acts = read_list(folder / "private").acts
    write_list(folder / "private", ForgottenList(tuple(replace(act, pieces=()) for act in acts)))


@pytest.mark.parametrize("earlier", [False, True])
def test_where_volumes_have_numbers_a_changed_series_is_not_packed_again(tmp_path: Path, earlier: bool) -> None:
    write_series(tmp_path / "archive", made())
    run = two_echoes(tmp_path, volume_names="position")
    forgot(run)
    if earlier:
        without_pieces(tmp_path)
    assert packed(run).new_sources == 0
    assert packed_echoes(run) == [ANOTHER, OTHER]
    echo(tmp_path, NEW)
    summary = packed(run)
    assert packed_echoes(run) == [ANOTHER]
    assert reasons(summary) == {SERIES_CHANGED: 1}
    assert instances(summary) == (32, 8, 24, 0)


@pytest.mark.parametrize("names", NAMES)
def test_a_forgotten_volume_is_none_of_a_later_data_set(tmp_path: Path, names: str) -> None:
    forgot(two_echoes(tmp_path, volume_names=names))
    later = run_of(tmp_path, dataset="later", shape=[5, 6, 8])
    assert instances(packed(later)) == (8, 8, 0, 0)
    assert packed_echoes(later) == [OTHER]


@pytest.mark.parametrize("names", NAMES)
def test_a_forgotten_slice_does_not_come_back_under_another_number(tmp_path: Path, names: str) -> None:
    write_series(tmp_path / "archive", made())
    for number in (GONE, OTHER):
        echo(tmp_path, number, 1, 9)
    run = run_of(tmp_path, shape=[10, 12], slices={"axis": 2}, volume_names=names)
    packed(run)
    forgot(run, which=2)
    assert counts(run) == (24, 24, 0, 0)
    assert packed(run).new_sources == 0
    assert len(samples(run)) == 23
    echo(tmp_path, GONE, 0, 1)
    summary = packed(run)
    assert packed_echoes(run) == ([ANOTHER, OTHER] if names == "instance" else [ANOTHER])
    assert reasons(summary) == {VOLUME_CHANGED if names == "instance" else SERIES_CHANGED: 1}


def test_the_files_of_forgotten_images_are_not_counted(tmp_path: Path) -> None:
    run = two_echoes(tmp_path, shape=[12, 10])
    forgot(run, which=3)
    assert counts(run) == (15, 15, 0, 0)
    echo(tmp_path, NEW)
    assert instances(packed(run)) == (23, 23, 0, 0)
    assert len(samples(run)) == 23


@pytest.mark.parametrize("names", NAMES)
def test_who_forgets_a_volume_with_a_number_is_told(tmp_path: Path, names: str) -> None:
    run = two_echoes(tmp_path, volume_names=names)
    write_nifti(tmp_path / "archive" / "n.nii", array=np.arange(240.0).reshape(3, 4, 5, 4).astype(np.int16))
    packed(run)
    asked = Asked(keys=(next(key for key, number in echoes(run).items() if number == GONE),))
    assert preview(open_place(run), asked).numbered == (names == "position")
    [done] = forget(open_place(run), asked, map_here)
    assert any("DICOM series have only numbers" in line for line in figures([done], [])["said"]) == (
        names == "position"
    )
    [of_file, *_] = [key for key, (_, item, s) in samples(run).items() if item == "volume/0" and s.array.max() < 300]
    assert preview(open_place(run), Asked(keys=(of_file,))).numbered == 0
