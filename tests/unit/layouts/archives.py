"""Small made data in the layouts of public data sets. Each function writes one, below a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from tests.writers import structured, write_dicom, write_ecg_csv, write_medmnist, write_nifti, write_wfdb

SHAPE = (12, 14, 10)
LPS = np.diag([-8.0, -8, 12, 1])
"""As BraTS stores its volumes, with larger voxels."""


def _image(path: Path, seed: int, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, SHAPE, seed, affine=affine)


def _labels(path: Path, seed: int, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, array=(structured(SHAPE, seed) > 0.5).astype(np.uint8), affine=affine)


def write_brats(folder: Path, sessions: Sequence[str]) -> None:
    """Sessions such as 00000-000, each with four sequences and a segmentation."""
    for number, session in enumerate(sessions):
        name = f"BraTS-GLI-{session}"
        for channel, sequence in enumerate(("t1n", "t1c", "t2w", "t2f")):
            _image(folder / name / f"{name}-{sequence}.nii.gz", 10 * number + channel, LPS)
        _labels(folder / name / f"{name}-seg.nii.gz", 10 * number, LPS)


def write_lidc(folder: Path, patients: Sequence[int], slices: int = 6) -> list[np.ndarray]:
    """For each patient a CT series, with its XML, a chest X-ray, a segmentation and a report. Returns the volumes
    (row, column, slice) as stored."""
    folder.mkdir()
    (folder / "LICENSE").write_text("Creative Commons")
    (folder / "metadata.csv").write_text("Subject ID,Modality\nLIDC-IDRI-0001,CT\n")
    return [_write_lidc_patient(folder, f"LIDC-IDRI-{number:04}", number, slices) for number in patients]


def _write_lidc_patient(folder: Path, patient: str, seed: int, slices: int) -> np.ndarray:
    series = folder / patient / "01-01-2000-30178" / "3000566.000000-03192"
    x_ray = folder / patient / "01-01-2000-35511" / "3000923.000000-62357"
    for made in (series, x_ray):
        made.mkdir(parents=True)
    volume = np.rint(structured((16, 16, slices), seed) * 3000).astype(np.int16)
    for index in range(slices):
        write_dicom(
            series / f"1-{slices - index:03}.dcm",
            array=np.ascontiguousarray(volume[:, :, index]),
            modality="CT",
            slope=1,
            intercept=-1024,
            spacing=(20, 20),
            position=(-150, -150, 40.0 * index),
            elements=_uids(patient, "CT", index) | {"InstanceNumber": slices - index},
        )
    (series / "069.xml").write_text("<LidcReadMessage/>")
    _write_annotations(folder / patient / "01-01-2000-NA", patient)
    elements = _uids(patient, "DX", 0) | {"BurnedInAnnotation": "NO"}
    write_dicom(x_ray / "1-1.dcm", (30, 20), seed, modality="DX", position=None, elements=elements)
    return volume


def _write_annotations(study: Path, patient: str) -> None:
    """A segmentation of three frames, and a report, which has no pixels."""
    for modality in ("SEG", "SR"):
        path = study / f"1000.000000-{modality}" / "1-1.dcm"
        path.parent.mkdir(parents=True)
        elements = _uids(patient, modality, 0) | {"Modality": modality}
        write_dicom(path, (16, 16), frames=3, elements=elements)
    report = pydicom.dcmread(path)
    for name in ("Rows", "Columns", "PixelData", "NumberOfFrames"):
        delattr(report, name)
    report.save_as(path)


def _uids(patient: str, modality: str, index: int) -> dict[str, object]:
    return {
        "PatientID": patient,
        "PatientName": "",
        "StudyInstanceUID": generate_uid(entropy_srcs=[patient, modality]),
        "SeriesInstanceUID": generate_uid(entropy_srcs=[patient, modality, "series"]),
        "SOPInstanceUID": generate_uid(entropy_srcs=[patient, modality, str(index)]),
    }


def write_mit_bih_records(folder: Path, records: Sequence[int], samples: int) -> None:
    """Records of two leads, with annotations and the texts beside them."""
    import wfdb

    folder.mkdir()
    for number in records:
        write_wfdb(folder / f"{number}.hea", samples, form="212", seed=number)
        wfdb.wrann(str(number), "atr", np.array([10, 200]), symbol=["N", "V"], write_dir=str(folder))
    for name in ("RECORDS", "ANNOTATORS", "SHA256SUMS.txt"):
        (folder / name).write_text("\n".join(map(str, records)))


def write_mit_bih_beats(folder: Path, train: int, test: int) -> None:
    """187 samples and a class in each row, as numpy.savetxt writes them."""
    folder.mkdir()
    write_ecg_csv(folder / "mitbih_train.csv", train, seed=1)
    write_ecg_csv(folder / "mitbih_test.csv", test, seed=2)


def write_medmnist_files(folder: Path) -> None:
    """Of two dimensions in two sizes, of three, and in colour."""
    counts = {"train": 6, "val": 3, "test": 2}
    for name, shape in {
        "pneumoniamnist": (28, 28),
        "pneumoniamnist_64": (64, 64),
        "nodulemnist3d": (28, 28, 28),
        "pathmnist": (28, 28, 3),
    }.items():
        write_medmnist(folder / f"{name}.npz", shape, counts)


def write_bids(folder: Path, subjects: Sequence[str], sessions: int = 2) -> None:
    """Subjects with sessions; segmentations and preprocessed copies as derivatives; the first one's sex is unknown, and
    the table has a row of a subject without scans."""
    for number, subject in enumerate(subjects):
        for session in range(1, sessions + 1):
            stem, place = f"sub-{subject}_ses-{session:02}", Path(f"sub-{subject}") / f"ses-{session:02}" / "anat"
            seed = 10 * number + session
            _image(folder / place / f"{stem}_T1w.nii.gz", seed)
            (folder / place / f"{stem}_T1w.json").write_text("{}")
            _image(folder / "derivatives" / "seg" / place / f"{stem}_desc-preproc_T1w.nii.gz", seed + 100)
            _labels(folder / "derivatives" / "seg" / place / f"{stem}_dseg.nii.gz", seed)
    (folder / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.9.0"}')
    for name in ("README", "CHANGES"):
        (folder / name).write_text("made")
    sexes = ["n/a", *("FM"[n % 2] for n in range(len(subjects) - 1))]
    rows = [f"sub-{subject}\t{40 + n}\t{sex}" for n, (subject, sex) in enumerate(zip(subjects, sexes, strict=True))]
    lines = ["participant_id\tage\tsex", *rows, "sub-none\tn/a\tM"]
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")


def write_nnunet(folder: Path, train: Sequence[int], test: Sequence[int], channels: int = 2) -> None:
    """Cases of two channels, with labels for those of imagesTr."""
    for part, cases in (("Tr", train), ("Ts", test)):
        for case in cases:
            for channel in range(channels):
                _image(folder / f"images{part}" / f"case_{case:04}_{channel:04}.nii.gz", 10 * case + channel)
            if part == "Tr":
                _labels(folder / "labelsTr" / f"case_{case:04}.nii.gz", 10 * case)
    names = {str(channel): f"channel {channel}" for channel in range(channels)}
    (folder / "dataset.json").write_text(json.dumps({"channel_names": names, "file_ending": ".nii.gz"}))
