"""Zip and tar files in the archive: their members are sources like loose files."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medfuncta_dist.archive import member_lists
from medfuncta_dist.archive import survey as survey_module
from medfuncta_dist.archive.member_lists import FOLDER
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import QuarantineLimitError, RunFileError
from medfuncta_dist.forget.forget_driver import Asked, forget, open_place
from medfuncta_dist.forget.patient_names import PatientName
from medfuncta_dist.packing import pack_plan
from medfuncta_dist.packing.pack_preview import preview_pack
from medfuncta_dist.packing.sources import source_files
from medfuncta_dist.packing.sources.set_aside import HALF, RECORD_INSIDE, SEGMENTATION, SEGMENTATION_INSIDE, SYSTEM
from medfuncta_dist.scans.readers.nifti import HALF_OF_PAIR
from medfuncta_dist.storage.archive_files import place
from medfuncta_dist.storage.archive_files.place import SEPARATOR, SOLID, kind_of
from medfuncta_dist.storage.object_store import ObjectStore
from medfuncta_dist.storage.s3.s3_objects import S3Objects
from medfuncta_dist.task_map import map_here
from tests.bundles import SUFFIXES, bundled, contents, tarred, zipped
from tests.mapping_rows import read_mapping
from tests.unit.packing.repairs import require_same_after_repair
from tests.unit.packing.test_dicom_series import instances, made, only, packed, reasons, run_of, samples
from tests.unit.shards.samples import objects
from tests.writers import (
    write_ecg_csv,
    write_medmnist,
    write_nifti,
    write_nifti_pair,
    write_png,
    write_series,
    write_wfdb,
)

FEW = (".zip", ".tar", ".tar.gz")
"""A kind for each way of reading."""


def put(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    return path


def pngs(folder: Path, count: int = 6, first: int = 0) -> dict[str, bytes]:
    """Different pictures, each in a folder of its own patient."""
    return {
        f"patient{i:03d}/view.png": write_png(folder / f"{i}.png", seed=i).read_bytes()
        for i in range(first, first + count)
    }


def pictures(folder: Path, **data: object) -> RunFile:
    return run_of(folder, shape=[28, 28], **data)


def arrays(run: RunFile) -> list[bytes]:
    return sorted(sample.array.tobytes() for _, _, sample in samples(run).values())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_series_is_the_same_data_set_loose_and_in_an_archive_file(suffix: str, tmp_path: Path) -> None:
    write_series(tmp_path / "loose", made())
    put(tmp_path / "archive", f"study{suffix}", bundled(contents(tmp_path / "loose"), suffix))
    inside = run_of(tmp_path)
    loose = run_of(tmp_path, source=str(tmp_path / "loose"), dataset="loose")
    first, second = packed(loose), packed(inside)
    assert instances(second) == (8, 8, 0, 0)
    assert second.snapshot_digest != ""
    assert objects_of(inside, "ct") == objects_of(loose, "loose")
    assert first.counts == second.counts
    assert samples(inside).keys() == samples(loose).keys()
    assert packed(inside).changes["same"] == 1


def objects_of(run: RunFile, dataset: str) -> dict[str, bytes]:
    """Shards and indexes, which have content addresses."""
    root = f"datasets/{dataset}/"
    found = {path.removeprefix(root): data for path, data in objects(ObjectStore(run.storage)).items()}
    return {path: data for path, data in found.items() if path.startswith(("shards/", "indexes/"))}


@pytest.mark.parametrize("suffix", FEW)
def test_every_format_is_read_inside_an_archive_file(suffix: str, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    for folder in ("n", "p", "m"):
        (loose / folder).mkdir(parents=True)
    write_png(loose / "p" / "a.png")
    write_medmnist(loose / "m" / "set.npz", (28, 28), {"train": 3, "test": 2})
    put(tmp_path / "archive", f"all{suffix}", bundled(contents(loose), suffix))
    run = pictures(tmp_path)
    assert packed(run).counts["packed"] == 6
    assert arrays(run) == arrays_of_loose(pictures, loose, tmp_path)


def arrays_of_loose(run_for: Callable[..., RunFile], loose: Path, folder: Path) -> list[bytes]:
    run = run_for(folder, source=str(loose), dataset="loose")
    packed(run)
    return arrays(run)


@pytest.mark.parametrize("suffix", FEW)
@pytest.mark.parametrize("kind", ["nifti", "csv"])
def test_volumes_and_signals_are_read_inside_an_archive_file(kind: str, suffix: str, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    shape: list[int] = [5, 6, 4] if kind == "nifti" else [187]
    for seed in range(3):
        if kind == "nifti":
            write_nifti(loose / f"scan{seed}.nii.gz", (5, 6, 4), seed=seed)
        else:
            write_ecg_csv(loose / f"beats{seed}.csv", rows=2, seed=seed)
    put(tmp_path / "archive", f"all{suffix}", bundled(contents(loose), suffix))
    run = run_of(tmp_path, shape=shape)
    packed(run)
    assert len(arrays(run)) == (3 if kind == "nifti" else 6)
    assert arrays(run) == arrays_of_loose(lambda folder, **d: run_of(folder, shape=shape, **d), loose, tmp_path)


@pytest.mark.parametrize("suffix", FEW)
def test_a_series_may_lie_in_several_archive_files_and_loose(suffix: str, tmp_path: Path) -> None:
    write_series(tmp_path / "loose", made())
    files = sorted(contents(tmp_path / "loose").items())
    put(tmp_path / "archive" / "one", f"a{suffix}", bundled(dict(files[:3]), suffix))
    put(tmp_path / "archive" / "two", "b.tgz", bundled(dict(files[3:6]), ".tgz"))
    for number, (_, data) in enumerate(files[6:]):
        put(tmp_path / "archive", f"IM{number}", data)
    run = run_of(tmp_path)
    summary = packed(run)
    assert (summary.counts["packed"], instances(summary)) == (1, (8, 8, 0, 0))
    loose = run_of(tmp_path, source=str(tmp_path / "loose"), dataset="loose")
    packed(loose)
    np.testing.assert_array_equal(only(run).array, only(loose).array)


@pytest.mark.parametrize("suffix", FEW)
def test_a_member_that_equals_a_loose_file_is_one_scan(suffix: str, tmp_path: Path) -> None:
    files = pngs(tmp_path, 3)
    put(tmp_path / "archive", f"all{suffix}", bundled(files, suffix))
    put(tmp_path / "archive" / "patient001", "view.png", files["patient001/view.png"])
    summary = packed(pictures(tmp_path))
    assert (summary.counts["packed"], summary.changes["copied"]) == (3, 1)


def test_large_members_that_equal_loose_files_are_found_by_their_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (member_lists, survey_module):
        monkeypatch.setattr(module, "SMALL", 100)
    files = pngs(tmp_path, 2)
    for suffix in FEW:
        put(tmp_path / "archive", f"all{suffix}", bundled(files, suffix))
    put(tmp_path / "archive" / "patient001", "view.png", files["patient001/view.png"])
    summary = packed(pictures(tmp_path))
    assert (summary.counts["packed"], summary.changes["copied"]) == (2, 5)


@pytest.mark.parametrize("suffix", FEW)
def test_an_unchanged_archive_file_is_not_opened_again(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "archive", f"all{suffix}", bundled(pngs(tmp_path), suffix))
    run = pictures(tmp_path)
    first = packed(run)
    for module in (member_lists, survey_module):
        monkeypatch.setattr(module, "fetch_from", lambda uri: pytest.fail("opened an archive file"))
    monkeypatch.setattr(survey_module, "member_fetch", lambda place: pytest.fail("read a member"))
    again = packed(run)
    assert (again.snapshot_digest, again.changes["same"]) == (first.snapshot_digest, 6)
    assert preview_pack(run, lambda done, total: None).to_read == 0


@pytest.mark.parametrize("suffix", FEW)
def test_of_a_changed_archive_file_only_changed_members_are_packed_again(suffix: str, tmp_path: Path) -> None:
    files = pngs(tmp_path)
    path = put(tmp_path / "archive", f"all{suffix}", bundled(files, suffix))
    run = pictures(tmp_path)
    packed(run)
    before = samples(run)
    changed = files | {"patient002/view.png": pngs(tmp_path, 1, 77)["patient077/view.png"]}
    del changed["patient000/view.png"]
    changed = {"patient050/view.png": pngs(tmp_path, 1, 50)["patient050/view.png"]} | changed  # all others move
    path.write_bytes(bundled(changed, suffix))
    os.utime(path, ns=(1, 1))
    found = packed(run).changes
    assert (found["new"], found["changed"], found["removed"], found["same"]) == (1, 1, 1, 4)
    after = samples(run)
    assert sum(key in after and after[key][2].array.tobytes() == before[key][2].array.tobytes() for key in before) == 5


@pytest.mark.parametrize("suffix", FEW)
def test_an_archive_file_that_is_renamed_or_unpacked_keeps_its_keys(suffix: str, tmp_path: Path) -> None:
    files = pngs(tmp_path)
    path = put(tmp_path / "archive", f"all{suffix}", bundled(files, suffix))
    run = pictures(tmp_path)
    first = packed(run)
    path.rename(path.with_name(f"moved{suffix}"))
    summary = packed(run)
    assert (summary.changes["renamed"], summary.snapshot_digest) == (6, first.snapshot_digest)
    (path.with_name(f"moved{suffix}")).unlink()
    for name, data in files.items():
        put((tmp_path / "archive" / name).parent, "view.png", data)
    summary = packed(run)
    assert (summary.changes["renamed"], summary.snapshot_digest) == (6, first.snapshot_digest)


@pytest.mark.parametrize("suffix", FEW)
def test_a_damaged_archive_file_is_quarantined_whole_and_read_once_it_is_repaired(suffix: str, tmp_path: Path) -> None:
    files = pngs(tmp_path, 4)
    whole = bundled(files, suffix)
    path = put(tmp_path / "archive", f"upload{suffix}", whole[:1500])
    put(tmp_path / "archive", "other.png", write_png(tmp_path / "o.png", seed=99).read_bytes())
    run = pictures(tmp_path)
    summary = packed(run)
    assert summary.counts["packed"] == 1
    assert set(reasons(summary)) <= {place.DAMAGED, place.TRUNCATED}
    assert sum(reasons(summary).values()) == 1
    path.write_bytes(whole)
    repaired = packed(run)
    assert (repaired.counts["packed"], repaired.quarantined) == (5, [])


def test_refused_members_are_counted_by_reason_and_the_rest_is_packed(tmp_path: Path) -> None:
    files = pngs(tmp_path, 3) | {"README.txt": b"hello", "inner.zip": zipped({"a.png": b"x"}), "../evil.png": b"x"}
    put(tmp_path / "archive", "all.zip", zipped(files))
    summary = packed(pictures(tmp_path))
    assert summary.counts["packed"] == 3
    assert reasons(summary) == {place.NESTED: 1, place.NAME: 1}
    assert summary.aside == {"no reader takes .txt": 1}
    with pytest.raises(QuarantineLimitError):
        packed(pictures(tmp_path, max_quarantined=0.2, dataset="strict"))
    only_png = pictures(tmp_path, max_quarantined=0, dataset="some", source=f"{tmp_path}/archive/*.zip!/patient*/*.png")
    assert packed(only_png).counts["packed"] == 3


@pytest.mark.parametrize("suffix", FEW)
def test_members_are_set_aside_like_loose_files(suffix: str, tmp_path: Path) -> None:
    files = pngs(tmp_path, 2) | {
        "a/scan.json": b"{}",
        "Thumbs.db": b"x",
        "Doe.pdf": b"x",
        "patient000/scan_seg.png": b"x",
    }
    put(tmp_path / "archive", f"all{suffix}", bundled(files, suffix))
    run = pictures(tmp_path)
    summary = packed(run)
    assert (summary.counts["packed"], summary.quarantined) == (2, [])
    reasons_aside = {SYSTEM: 1, SEGMENTATION: 1, "no reader takes .json": 1, "no reader takes .pdf": 1}
    assert summary.aside == reasons_aside
    again = packed(run)
    assert (again.snapshot_digest, again.aside) == (summary.snapshot_digest, reasons_aside)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("suffix", FEW)
def test_a_pair_inside_an_archive_file_is_one_source(suffix: str, ending: str, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    array = np.random.default_rng(0).integers(0, 99, (5, 6, 4)).astype(np.int16)
    for path in write_nifti_pair(loose, "scan", array=array, affine=np.diag([2.0, 2.0, 3.0, 1.0])):
        if ending:
            path.with_name(path.name + ending).write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    put(tmp_path / "archive", f"all{suffix}", bundled(contents(loose), suffix))
    run = run_of(tmp_path, shape=[5, 6, 4])
    summary = packed(run)
    assert (summary.counts["packed"], summary.aside) == (1, {HALF: 1})
    assert arrays(run) == arrays_of_loose(lambda folder, **d: run_of(folder, shape=[5, 6, 4], **d), loose, tmp_path)


def test_half_of_a_pair_inside_an_archive_file_is_quarantined(tmp_path: Path) -> None:
    _, values = write_nifti_pair(tmp_path, "scan", array=np.ones((5, 6, 4), np.int16), affine=np.eye(4))
    files = {"a.img": values.read_bytes()} | {"b.nii": write_nifti(tmp_path / "b.nii", (5, 6, 4)).read_bytes()}
    put(tmp_path / "archive", "all.zip", zipped(files))
    summary = packed(run_of(tmp_path, shape=[5, 6, 4]))
    assert summary.counts["packed"] == 1
    assert reasons(summary) == {HALF_OF_PAIR: 1}


@pytest.mark.parametrize("suffix", FEW)
def test_records_inside_an_archive_file_are_refused_and_their_parts_are_not_counted(
    suffix: str, tmp_path: Path
) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    write_wfdb(loose / "100.hea")
    write_ecg_csv(loose / "beats.csv", rows=2)
    put(tmp_path / "archive", f"all{suffix}", bundled(contents(loose), suffix))
    summary = packed(run_of(tmp_path, shape=[187]))
    assert (summary.counts["packed"], summary.aside) == (2, {})
    assert reasons(summary) == {RECORD_INSIDE: 1}


def test_segmentations_inside_an_archive_file_are_not_paired_and_say_what_to_do(tmp_path: Path) -> None:
    names = [f"{folder}/{n}.nii" for folder in ("images", "masks") for n in range(2)]
    files = {name: write_nifti(tmp_path / "a.nii", (5, 6, 4), seed=n).read_bytes() for n, name in enumerate(names)}
    put(tmp_path / "archive", "all.zip", zipped(files))
    summary = packed(run_of(tmp_path, shape=[5, 6, 4], masks="pair"))
    assert (summary.counts["packed"], summary.aside) == (2, {SEGMENTATION_INSIDE: 2})
    assert "unpack it" in SEGMENTATION_INSIDE
    skipped = packed(run_of(tmp_path / "other", shape=[5, 6, 4], source=str(tmp_path / "archive"), masks="skip"))
    assert skipped.aside == {SEGMENTATION: 2}


@pytest.mark.parametrize(
    "reason", [RECORD_INSIDE, *(getattr(place, name) for name in ("NESTED", "ENCRYPTED", "SPARSE", "METHOD"))]
)
def test_what_would_be_read_loose_is_to_be_unpacked(reason: str) -> None:
    assert reason.endswith(": unpack it")


def test_an_archive_file_without_files_says_so(tmp_path: Path) -> None:
    put(tmp_path / "archive", "empty.zip", zipped({"folder/": b""}))
    with pytest.raises(RunFileError, match=member_lists.EMPTY):
        packed(pictures(tmp_path))


def test_a_member_with_a_flipped_bit_is_quarantined_alone(tmp_path: Path) -> None:
    files = pngs(tmp_path, 3)
    raw = bytearray(zipped(files, 0))
    at = raw.index(files["patient001/view.png"])
    raw[at + 60] ^= 1
    put(tmp_path / "archive", "all.zip", bytes(raw))
    summary = packed(pictures(tmp_path))
    assert (summary.counts["packed"], reasons(summary)) == (2, {place.DAMAGED_MEMBER: 1})


@pytest.mark.parametrize("suffix", FEW)
def test_members_of_one_patient_are_in_one_split(suffix: str, tmp_path: Path) -> None:
    files = {}
    for patient in range(12):
        for view in range(3):
            data = write_png(tmp_path / "p.png", seed=10 * patient + view).read_bytes()
            files[f"patient{patient:03d}/{view}.png"] = data
    put(tmp_path / "archive", f"all{suffix}", bundled(files, suffix))
    summary = packed(pictures(tmp_path, fractions={"train": 0.5, "test": 0.5}))
    assert summary.patients is not None
    assert (summary.patients.patients, summary.patients.in_several_splits, len(summary.splits)) == (12, 0, 2)


@pytest.mark.parametrize("suffix", FEW)
def test_names_inside_archive_files_stay_in_the_private_folder(suffix: str, tmp_path: Path) -> None:
    files = {f"Doe^Jane_19700101/{i}.png": data for i, data in enumerate(pngs(tmp_path, 3).values())}
    put(tmp_path / "archive", f"Roe^Richard{suffix}", bundled(files | {"Doe^Jane.pdf": b"x"}, suffix))
    run = pictures(tmp_path)
    packed(run)
    for path, data in objects(ObjectStore(run.storage)).items():
        assert not any(name in path.encode() + data for name in (b"Doe", b"Jane", b"Roe", b"Richard", b"19700101"))
    uris = {row.uri for row in read_mapping(tmp_path / "private")}
    assert f"{tmp_path}/archive/Roe^Richard{suffix}{SEPARATOR}Doe^Jane_19700101/0.png" in uris
    lists = list((tmp_path / "private" / FOLDER).iterdir())
    assert [(path.stat().st_mode & 0o777, b"Roe" in path.name.encode()) for path in lists] == [(0o600, False)]


def test_lists_of_archive_files_that_are_gone_are_deleted(tmp_path: Path) -> None:
    put(tmp_path / "archive", "a.zip", zipped(pngs(tmp_path, 1)))
    gone = put(tmp_path / "archive", "b.zip", zipped(pngs(tmp_path, 1, 1)))
    run = pictures(tmp_path)
    packed(run)
    gone.unlink()
    packed(run)
    assert len(list((tmp_path / "private" / FOLDER).iterdir())) == 1


def test_a_list_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    put(tmp_path / "archive", "a.tar.gz", bundled(pngs(tmp_path, 2), ".tar.gz"))
    run = pictures(tmp_path)
    first = packed(run)
    [path] = (tmp_path / "private" / FOLDER).iterdir()
    path.write_bytes(b"not parquet")
    assert packed(run).snapshot_digest == first.snapshot_digest


def test_a_compressed_tar_is_read_once_per_task_and_in_large_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    real = source_files.tar_entries
    monkeypatch.setattr(source_files, "tar_entries", lambda *args: passes.append(args[3]) or real(*args))
    put(tmp_path / "archive", "all.tar.gz", bundled(pngs(tmp_path, 20), ".tar.gz"))
    put(tmp_path / "archive", "one.png", write_png(tmp_path / "o.png", seed=99).read_bytes())
    assert packed(pictures(tmp_path, sources_per_task=2)).counts["packed"] == 21
    assert passes == ["gz"]
    monkeypatch.setattr(pack_plan, "WINDOW_BYTES", 5 * (pack_plan.BLOCK_BYTES + 2000))
    assert packed(pictures(tmp_path, dataset="small", sources_per_task=2)).counts["packed"] == 21
    assert 4 <= len(passes) - 1 <= 10


@pytest.mark.parametrize("suffix", FEW)
def test_an_archive_file_that_changes_before_its_task_loses_no_scan_silently(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pngs(tmp_path, 3)
    path = put(tmp_path / "archive", f"all{suffix}", bundled(files, suffix))
    run = pictures(tmp_path)
    real = pack_plan.plan
    other = bundled({f"x{name}": data for name, data in pngs(tmp_path, 3, 20).items()}, suffix)

    def replaced(*args: Any) -> Any:
        path.write_bytes(other)
        return real(*args)

    monkeypatch.setattr("medfuncta_dist.packing.pack_driver.plan", replaced)
    with pytest.raises(RunFileError, match="no usable scan"):
        packed(run)
    monkeypatch.undo()
    assert packed(run).counts["packed"] == 3


@pytest.mark.parametrize("suffix", FEW)
def test_damaged_shards_are_repaired_from_archive_files(suffix: str, tmp_path: Path) -> None:
    put(tmp_path / "archive", f"all{suffix}", bundled(pngs(tmp_path), suffix))
    run = pictures(tmp_path)
    packed(run)
    require_same_after_repair(run)
    assert len(samples(run)) == 6


@pytest.mark.parametrize("suffix", FEW)
def test_forgotten_members_do_not_come_back(suffix: str, tmp_path: Path) -> None:
    files = pngs(tmp_path)
    path = put(tmp_path / "archive", f"all{suffix}", bundled(files, suffix))
    run = pictures(tmp_path)
    packed(run)
    forget(open_place(run), Asked(patients=(PatientName("patient003"),)), map_here)
    assert packed(run).counts["packed"] == 5
    path.unlink()
    for name, data in files.items():
        put((tmp_path / "archive" / name).parent, "another name.png", data)
    assert (packed(run).counts["packed"], len(samples(run))) == (5, 5)


def test_storage_inside_the_archive_is_refused_before_a_tar_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "archive", "a.png", write_png(tmp_path / "o.png").read_bytes())
    put(tmp_path / "archive" / "store", "x.tar", tarred(pngs(tmp_path, 1)))
    monkeypatch.setattr(member_lists, "fetch_from", lambda uri: pytest.fail("opened a shard"))
    run = pictures(tmp_path).model_copy(update={"storage": str(tmp_path / "archive" / "store")})
    with pytest.raises(RunFileError, match="inside the storage"):
        packed(run)


# S3


class Requests:
    """Names of the requests to S3 and the bytes of ranged ones, from here on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: Counter[str] = Counter()
        self.bytes = 0
        for name in ("read", "read_tagged", "read_range", "download", "size", "status"):
            monkeypatch.setattr(S3Objects, name, self._counting(name, getattr(S3Objects, name)))

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.names[name] += 1
            self.bytes += args[3] if name == "read_range" else 0
            return real(*args)

        return counted


@pytest.mark.parametrize("suffix", FEW)
def test_archive_files_on_s3_are_as_local_ones(
    suffix: str, tmp_path: Path, s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "loose", made())
    bucket = ObjectStore(s3())
    data = bundled(contents(tmp_path / "loose"), suffix)
    bucket.write(f"x/study{suffix}", data)
    requests = Requests(monkeypatch)
    run = run_of(tmp_path, source=bucket.root)
    summary = packed(run)
    assert instances(summary) == (8, 8, 0, 0)
    requests.names.pop("status")  # asked by the pattern
    # Zip: its directory, then each member for the survey and for its task. Tar: one pass, then each member, or a
    # second pass. These are small enough for one request a pass.
    expected = {".zip": 1 + 8 + 8, ".tar": 1 + 8, ".tar.gz": 1 + 1}[suffix]
    assert requests.names == {"read_range": expected}
    assert requests.bytes < 2.2 * len(data) + 2**16
    loose = run_of(tmp_path, source=str(tmp_path / "loose"), dataset="loose", private=str(tmp_path / "private-2"))
    packed(loose)
    np.testing.assert_array_equal(only(run).array, only(loose).array)
    before = requests.names["read_range"]
    assert packed(run).changes["same"] == 1
    assert requests.names["read_range"] == before


@pytest.mark.parametrize("suffix", FEW)
def test_a_member_that_equals_a_loose_object_is_one_scan(suffix: str, tmp_path: Path, s3: Callable[[], str]) -> None:
    bucket = ObjectStore(s3())
    files = pngs(tmp_path, 3)
    bucket.write(f"x/all{suffix}", bundled(files, suffix))
    bucket.write("x/patient001.png", files["patient001/view.png"])
    bucket.write("y/again.zip", zipped(files))
    run = pictures(tmp_path, source=bucket.root)
    summary = packed(run)
    assert (summary.counts["packed"], summary.changes["copied"]) == (3, 4)
    assert packed(run).snapshot_digest == summary.snapshot_digest


def test_a_large_zip_on_s3_is_not_fetched_for_its_list(
    tmp_path: Path, s3: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = ObjectStore(s3())
    noise = np.random.default_rng(0).bytes(3 * 2**20)
    files = pngs(tmp_path, 2) | {f"patient{i}/big.png": noise[i:] for i in range(3)}
    bucket.write("all.zip", zipped(files))
    requests = Requests(monkeypatch)
    found = preview_pack(pictures(tmp_path, source=bucket.root), lambda done, total: None)
    assert found.to_read == 5
    assert requests.names["read_range"] == 1
    assert requests.bytes == 2**16


def test_every_kind_is_one_of_three() -> None:
    assert {kind_of(f"a{suffix}") for suffix in SUFFIXES} - SOLID == {"zip", "tar"}
    assert [kind_of(name) for name in ("a.nii.gz", "a.npz", "zip", "a.zip.png", "a.gz")] == [None] * 5
