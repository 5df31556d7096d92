"""An archive that lives: scans of several patients in several formats, which are renamed, moved, copied, changed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.uid import generate_uid

from tests.writers import structured, write_dicom, write_nifti, write_nifti_pair, write_png, write_series

PATIENTS, PATIENT = 6, "sub-Mueller"
SECRETS = ("Mueller", "Doe^", "Jane", "PIDX", "geheim", "Hans")
"""In names of folders and files, and in elements: none may ever leave the private folder."""
KINDS = {
    "images": ("series", "series", "dicom", "png"),
    "volumes": ("series", "series", "nifti", "pair", "4d"),
    "slices": ("series", "series", "nifti", "4d"),
}
"""Of the units of an archive, by how it is packed."""


@dataclass(eq=False)
class Unit:
    """What belongs together: the files of a series, both files of a pair, or one file."""

    kind: str
    files: list[Path]
    patient: int
    settled: bool = False
    """Its bytes stay as they are: what is forgotten does not come back with other bytes either."""


class RandomArchive:
    """Of even patients, DICOM says whose a file is; of odd ones, a folder does: nobody is known in two ways."""

    def __init__(self, folder: Path, rng: random.Random, kinds: tuple[str, ...]) -> None:
        self.folder, self.units, self.copies = folder, list[Unit](), 0
        self._rng, self._kinds, self._made = rng, kinds, 0
        self._changes: list[Callable[[], object]] = [
            self.add,
            self._add_slice,
            self._change,
            self._copy,
            self._move,
            self._remove,
            self._remove_slice,
            self._rename,
            self._rename,
            self._scatter,
            self._stray,
            self._touch,
        ]

    def add(self) -> Unit:
        """A new scan, or several in one file."""
        kind = self._rng.choice(self._kinds)
        patient = self._patient(named=None if kind == "series" else kind == "dicom")
        folder = self._folder_of(patient)
        unit = Unit(kind, self._written(kind, folder, f"PIDX{patient:02d}" if patient % 2 == 0 else ""), patient)
        self.units.append(unit)
        return unit

    def change(self) -> None:
        """Do one thing to it, or nothing where that thing is not possible."""
        self._rng.choice(self._changes)()

    def owners(self, unit: Unit) -> set[int]:
        """Whose it is, as it tells: nobody's, where files of a series lie in the folders of several."""
        folders = {int(file.relative_to(self.folder).parts[0].removeprefix(PATIENT)) for file in unit.files}
        return folders if unit.patient % 2 else {unit.patient}

    def unit_of(self, path: Path) -> Unit:
        """The unit that the file belongs to."""
        return next(unit for unit in self.units if path in unit.files)

    def _written(self, kind: str, folder: Path, patient: str) -> list[Path]:
        stem, seed = self._name(), self._number()
        if kind == "series":
            files = write_series(
                folder, self._volume(self._rng.choice([3, 4, 5])), name=f"s{seed}", patient=patient,
                folders=self._rng.choice([1, 2]), PatientName="Doe^Jane",
            )  # fmt: skip
            return [file.rename(file.with_name(f"Hans_{seed}_{file.name}")) for file in files]
        if kind == "dicom":
            own = {"PatientID": patient, "PatientName": "Doe^Jane"}
            return [write_dicom(folder / f"{stem}.dcm", (8, 8), seed, elements=own)]
        if kind == "png":
            return [write_png(folder / f"{stem}.png", (8, 8), seed)]
        if kind == "pair":
            return list(write_nifti_pair(folder, stem, array=self._volume(4), affine=np.diag([2, 2, 3, 1.0])))
        array = self._volume(4) if kind == "nifti" else np.stack([self._volume(4) for _ in range(3)], -1)
        return [write_nifti(folder / f"{stem}.nii", array=array)]

    def _add_slice(self) -> None:
        unit = self._one("series", open_=True)
        if unit is None:
            return
        dataset = pydicom.dcmread(unit.files[-1])
        top = max(float(pydicom.dcmread(file).ImagePositionPatient[2]) for file in unit.files)
        dataset.ImagePositionPatient = [*dataset.ImagePositionPatient[:2], top + 4]
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(self._number())])
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PixelData = self._pixels(dataset)
        path = unit.files[0].with_name(self._name())
        dataset.save_as(path)
        unit.files.append(path)

    def _change(self) -> None:
        unit = self._one(open_=True)
        if unit is None:
            return
        file = self._rng.choice(unit.files)
        if unit.kind in ("series", "dicom"):
            dataset = pydicom.dcmread(file)
            dataset.PixelData = self._pixels(dataset)
            dataset.save_as(file)
        elif unit.kind == "png":
            write_png(file, (8, 8), self._number())
        else:
            image = nib.load(unit.files[-1])  # type: ignore[attr-defined]
            values = structured(image.shape[:3], self._number()) * 3000
            array = np.broadcast_to(np.rint(values).astype(np.int16).T, image.shape[::-1]).T
            nib.save(type(image)(array, image.affine), unit.files[-1])  # type: ignore[attr-defined]

    def _copy(self) -> None:
        unit = self._one()
        if unit is None or unit.kind == "pair":
            return
        file = self._rng.choice(unit.files)
        copy = shutil.copy2(file, file.with_name(self._name() + file.suffix))
        if unit.kind == "series":
            unit.files.append(copy)
        else:
            self.units.append(Unit(unit.kind, [copy], unit.patient))
        self.copies += 1

    def _move(self) -> None:
        """To a folder of another patient: it is another's then, unless its DICOM files say whose it is."""
        unit = self._one()
        if unit is None:
            return
        patient = self._patient(named=unit.patient % 2 == 0)
        folder = self._folder_of(patient)
        if not any((folder / file.name).exists() for file in unit.files):
            unit.files = [file.rename(folder / file.name) for file in unit.files]
            unit.patient = unit.patient if unit.patient % 2 == 0 else patient

    def _remove(self) -> None:
        unit = self._one()
        if unit is not None and len(self.units) > 3:
            for file in unit.files:
                file.unlink()
            self.units.remove(unit)

    def _remove_slice(self) -> None:
        unit = self._one("series", open_=True)
        if unit is not None and len(unit.files) > 3:
            file = self._rng.choice(unit.files)
            file.unlink()
            unit.files.remove(file)

    def _rename(self) -> None:
        unit = self._one()
        if unit is not None:
            stem = self._name()
            names = [f"{stem}_{n}" if unit.kind == "series" else stem + f.suffix for n, f in enumerate(unit.files)]
            unit.files = [f.rename(f.with_name(name)) for f, name in zip(unit.files, names, strict=True)]

    def _scatter(self) -> None:
        """One file of a series to another folder of the same patient."""
        unit = self._one("series")
        if unit is not None:
            n = self._rng.randrange(len(unit.files))
            unit.files[n] = unit.files[n].rename(self._folder_of(unit.patient) / self._name())

    def _stray(self) -> None:
        """One file of a series to a folder of another patient, by mistake."""
        unit = self._one("series")
        if unit is not None:
            n = self._rng.randrange(len(unit.files))
            folder = self._folder_of(self._rng.choice([p for p in range(PATIENTS) if p != unit.patient]))
            unit.files[n] = unit.files[n].rename(folder / self._name())

    def _touch(self) -> None:
        for unit in self.units:
            for file in unit.files:
                os.utime(file)

    def _pixels(self, dataset: pydicom.Dataset) -> bytes:
        return np.rint(structured((8, 8), self._number()) * 3000).astype(dataset.pixel_array.dtype).tobytes()

    def _one(self, kind: str | None = None, *, open_: bool = False) -> Unit | None:
        found = [unit for unit in self.units if kind in (None, unit.kind) and not (open_ and unit.settled)]
        return self._rng.choice(found) if found else None

    def _patient(self, named: bool | None) -> int:
        """``named``: by DICOM, by the folder, or (None) either."""
        return self._rng.choice([p for p in range(PATIENTS) if named is None or (p % 2 == 0) == named])

    def _folder_of(self, patient: int) -> Path:
        folder = self.folder / f"{PATIENT}{patient:02d}" / self._rng.choice(["geheim_a", "geheim_b", "geheim_c"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _volume(self, slices: int) -> np.ndarray:
        return np.rint(structured((8, 8, slices), self._number()) * 3000).astype(np.int16)

    def _name(self) -> str:
        return f"Hans_{self._rng.randrange(10**6):06d}_{self._number()}"

    def _number(self) -> int:
        self._made += 1
        return self._made
