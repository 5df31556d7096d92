"""Volumes that we assemble from DICOM series, multi-frame files and mosaics, beside dcm2niix's and SimpleITK's.

Of every such series that installed packages carry, and of those in the folders given as ``--archive``. Each series is
given to all three by itself, under names that say nothing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Claim, report_page
from benchmarks.made_series import made_series
from benchmarks.reader_files import image_files, is_dicom, or_none, quiet
from benchmarks.reader_references import (
    SIMPLEITK,
    Grid,
    at_the_same_place,
    by_simpleitk,
    difference,
    frame_place,
    grid_of_itk,
)

LARGEST_MM, ROUNDED = 1e-4, 1e-3
PLACES, PROGRAMS = "from positions, mm", ("dcm2niix", "SimpleITK")
DCM2NIIX = find_spec("dcm2niix") is not None
NOT_COMPARED = "not compared"
SHORT = ("nibabel",)
OPTIONS = ("-z", "n", "-b", "n", "-p", "n", "-f", "%j_%s")
"""-p n: the standard's rescale; else dcm2niix scales Philips' images by their private elements."""


@dataclass(frozen=True)
class SeriesFiles:
    """A series: single images, or one file of several frames. ``where``: package or folder, and its first file."""

    where: str
    headers: Sequence[Any]
    paths: Sequence[Path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--archive", action="append", default=[], type=Path, help="a folder of DICOM files, or several")
    given, began = parser.parse_args(), time.perf_counter()
    with image_files() as files:
        carried = {
            file.path: f"{file.package}: {Path(file.name).name}"
            for file in files
            if file.reader.name == "dicom" and (not given.short or file.package in SHORT)
        }
        rows = [row for series in of_several_images(carried) for row in compared(series)]
    with tempfile.TemporaryDirectory() as folder:
        for name, paths in made_series(Path(folder)):
            rows += [
                row for series in of_several_images(dict.fromkeys(paths, f"made: {name}")) for row in compared(series)
            ]
    for archive in given.archive:
        named = {p: f"archive: {p.relative_to(archive)}" for p in sorted(archive.rglob("*")) if p.is_file()}
        found = of_several_images({path: name for path, name in named.items() if is_dicom(path)})
        rows += [row for series in found for row in compared(series)]
    claims = [
        Claim("volumes with another value or affine", sum(row["verdict"] == DIFFERS for row in rows), 0, False),
        Claim("volumes that neither program compares", sum(row["verdict"] == UNCOMPARED for row in rows), 0, False),
        Claim("largest distance of a position in a header from our voxels, mm", largest(rows, PLACES), ROUNDED, False),
        *(
            Claim(f"largest difference of an affine's element to {name}, mm", largest(same, f"{name}, mm"), 1e-4, False)
            for name in PROGRAMS
            for same in [[row for row in rows if f"{name}: " not in row["note"]]]
        ),
    ]
    results = {"counts": counts(rows), "series": rows}
    report_page(
        "series-volumes", given.short, began, results, claims, {"Counts": [counts(rows)], "Series": rows}, NOTES
    )


NOTES = [
    "values: the largest absolute difference over all voxels, after axes are brought into one order by both affines; "
    "mm: the largest difference of an element of the affines",
    f"dcm2niix is called with {' '.join(OPTIONS)}; SimpleITK's ImageSeriesReader with the order that GDCM finds, and "
    "its image reader for files of several frames",
    "steps: the distances between neighbouring places along the normal, by the positions alone; where they are unequal "
    "both programs write an even grid all the same, with slices in the wrong place; here they are quarantined",
    "from positions: the largest distance of a position in the headers from the nearest of our voxels; one series here "
    "has positions of three decimals, as scanners write them",
    "where another program has another volume, the script tests what the note says on all values; a difference that no "
    "such test explains is shown as one",
    "made: written by made_series.py, of kinds that no package carries; archive: of the folders given as --archive",
]
EQUAL, DIFFERS, UNCOMPARED, LEFT = "equal", "**differs**", "not compared", "quarantined"


def of_several_images(files: Mapping[Path, str]) -> list[SeriesFiles]:
    """The series of several placed images, and the files of several frames; both of images, not of segmentations."""
    import pydicom

    series: dict[tuple[str, ...], list[tuple[Path, Any]]] = defaultdict(list)
    alone = []
    for path in files:
        header = or_none(lambda path=path: pydicom.dcmread(path, force=True, stop_before_pixels=True))
        if header is None or "Rows" not in header or header.get("Modality") in ("SEG", "RTDOSE"):
            continue
        if "SharedFunctionalGroupsSequence" in header or "DetectorInformationSequence" in header:
            alone.append(SeriesFiles(files[path], [header], [path]))
        elif header.get("ImagePositionPatient") and header.get("SOPInstanceUID"):
            names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
            series[tuple(str(header.get(name)) for name in names)].append((path, header))
    several = [
        SeriesFiles(files[members[0][0]], [header for _, header in members], [path for path, _ in members])
        for members in series.values()
        if len({header.SOPInstanceUID for _, header in members}) > 1
    ]
    return several + alone


def compared(series: SeriesFiles) -> Iterator[dict[str, Any]]:
    """A row per volume of ours, and one per reason against files."""
    from medfuncta_dist.errors import ScanError

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, "in", f"{n:04d}") for n in range(len(series.paths))]
        paths[0].parent.mkdir()
        for source, path in zip(series.paths, paths, strict=True):
            shutil.copy(source, path)
        others: dict[str, list[Grid]] = {}
        with quiet():
            found = list(our_volumes(paths, names_of(series.headers)))
            if DCM2NIIX:
                others["dcm2niix"] = by_dcm2niix(paths[0].parent, Path(folder, "out"))
            if SIMPLEITK:
                others["SimpleITK"] = series_by_simpleitk(paths)
        for part in found:
            row = {
                "series": series.where,
                "modality": str(series.headers[0].get("Modality")),
                "files": len(series.paths),
                "volume": part.item,
                "shape": "",
                "steps": steps_of(series.headers),
            }
            if isinstance(part.scan, ScanError):
                yield row | dict.fromkeys(COLUMNS, "") | {"verdict": LEFT, "note": part.scan.what}
            else:
                yield row | against(part.scan, others, series.headers)


COLUMNS = (PLACES, "dcm2niix", "dcm2niix, mm", "SimpleITK", "SimpleITK, mm")


def our_volumes(paths: Sequence[Path], names: Sequence[str]) -> Iterator[Any]:
    """As ``pack`` reads a series of single images, or a file by itself."""
    from medfuncta_dist.config.sections.series_section import Series
    from medfuncta_dist.errors import ScanError
    from medfuncta_dist.scans.readers.dicom.dicom_reader import DicomReader
    from medfuncta_dist.scans.readers.dicom.series_reader import InstanceFile, series_volumes
    from medfuncta_dist.scans.readers.reader import Found

    if len(paths) > 1:
        parts = series_volumes([InstanceFile(path, name) for path, name in zip(paths, names, strict=True)], Series())
        yield from (part.found for part in parts if part.found is not None)
        return
    try:
        found = list(DicomReader().scans(paths[0]))
    except ScanError as error:
        found = [Found("", None, error)]
    images = "" if len(found) == 1 else f"{len(found)} images: the file does not say where its frames are"
    yield from [Found("frame/…", None, ScanError(images))] if images else found


def names_of(headers: Sequence[Any]) -> list[str]:
    """A number for each SOPInstanceUID."""
    numbers: dict[str, str] = {}
    return [numbers.setdefault(str(header.get("SOPInstanceUID")), str(len(numbers))) for header in headers]


def by_dcm2niix(folder: Path, out: Path) -> list[Grid]:
    """The volumes that it writes; those of one file by themselves."""
    import dcm2niix
    import nibabel

    out.mkdir()
    subprocess.run([dcm2niix.bin, *OPTIONS, "-o", str(out), str(folder)], capture_output=True, check=False, timeout=300)
    grids = []
    for path in sorted(out.glob("*.nii")):
        image: Any = nibabel.load(path)  # type: ignore[attr-defined]
        values = np.asanyarray(image.dataobj)
        values = values.reshape(*(*values.shape, 1, 1)[:3], -1)
        grids += [Grid(values[..., n : n + 1], image.affine) for n in range(values.shape[3])]
    return grids


def series_by_simpleitk(paths: Sequence[Path]) -> list[Grid]:
    """Each series that GDCM finds in the folder, as one volume; a file of several frames by itself."""
    import SimpleITK as sitk

    if len(paths) == 1:
        return [grid for grid in [or_none(lambda: by_simpleitk(paths[0]))] if grid is not None]
    reader = sitk.ImageSeriesReader()
    grids = []
    for name in reader.GetGDCMSeriesIDs(str(paths[0].parent)):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent), name))
        if (image := or_none(reader.Execute)) is not None:
            grids.append(grid_of_itk(image))
    return grids


def against(scan: Any, others: Mapping[str, Sequence[Grid]], headers: Sequence[Any]) -> dict[str, Any]:
    """The volume beside the most similar one of each program."""
    ours = Grid(np.moveaxis(scan.array, 0, -1), scan.affine)
    row: dict[str, Any] = {"shape": " x ".join(map(str, scan.shape))} | dict.fromkeys(COLUMNS, NOT_COMPARED)
    places = places_of(headers)
    row[PLACES] = away(ours, places) if places is not None else NOT_COMPARED
    notes, equal, differs = [], False, False
    for name, grids in others.items():
        found = [(d, grid) for grid in grids if (d := or_none(lambda grid=grid: difference(ours, grid))) is not None]
        if not found:
            notes.append(f"{name}: no volume of this size ({sizes(grids)})")
            continue
        best, theirs = min(found, key=lambda pair: (pair[0].values, pair[0].mm))
        row |= {name: best.values, f"{name}, mm": best.mm}
        if best.values == 0 and (best.mm or 0) <= LARGEST_MM:
            equal = True
        else:
            why = explanation(ours, theirs, headers)
            differs |= why is None
            notes.append(f"{name}: {why or 'differs'}")
    return row | {"verdict": DIFFERS if differs else EQUAL if equal else UNCOMPARED, "note": "; ".join(notes)}


def explanation(ours: Grid, theirs: Grid, headers: Sequence[Any]) -> str | None:
    """Why another program has another volume, where one of the known reasons is the whole difference."""
    found = (words for words, holds in EXPLANATIONS if or_none(lambda holds=holds: holds(ours, theirs, headers)))
    return next(found, None)


def _further_away(ours: Grid, theirs: Grid, headers: Sequence[Any]) -> bool:
    places = places_of(headers)
    if places is None or difference(ours, theirs).values != 0:
        return False
    return away(ours, places) < away(theirs, places) < 10 * ROUNDED


def _along_the_normal(ours: Grid, theirs: Grid, headers: Sequence[Any]) -> bool:
    turned = Grid(theirs.values, None if theirs.affine is None else theirs.affine * [1, 1, -1, 1])
    found = difference(ours, turned)
    return headers[0].SpacingBetweenSlices < 0 and found.values == 0 and (found.mm or 0) <= LARGEST_MM


def _one_slope(ours: Grid, theirs: Grid, headers: Sequence[Any]) -> bool:
    """Every slice is exact but for its slope."""
    assert ours.affine is not None
    theirs = at_the_same_place(theirs, ours.affine)
    slopes = {float(header.RescaleSlope) for header in headers}
    pairs = zip(np.moveaxis(ours.values, 2, 0), np.moveaxis(theirs.values, 2, 0), strict=True)
    straight = all(np.corrcoef(one.ravel(), other.ravel())[0, 1] > 1 - 1e-9 for one, other in pairs)
    return len(slopes) > 1 and straight and difference(ours, theirs).mm < LARGEST_MM  # type: ignore[operator]


def _frames_as_in_the_file(ours: Grid, theirs: Grid, headers: Sequence[Any]) -> bool:
    assert ours.affine is not None
    slices = [np.moveaxis(at_the_same_place(g, ours.affine).values, 2, 0) for g in (ours, theirs)]
    found = [[number for number, other in enumerate(slices[1]) if (one == other).all()] for one in slices[0]]
    return len(headers) == 1 and sorted(number for [number] in found) == list(range(len(slices[0])))


EXPLANATIONS = (
    ("further away from the positions in the headers, which have few digits", _further_away),
    ("stacks the slices along the normal where SpacingBetweenSlices is negative", _along_the_normal),
    ("one slope for all slices, which have each their own", _one_slope),
    ("the frames are in the file's order, not in that of their positions", _frames_as_in_the_file),
)


def places_of(headers: Sequence[Any]) -> np.ndarray | None:
    """(image, 3): where the first pixels of the images or frames are, RAS mm; None where no plain element says it."""
    from medfuncta_dist.scans.readers.dicom.mosaic import is_mosaic

    if is_mosaic(headers[0].get("ImageType") or ()):
        return None
    frames = int(headers[0].get("NumberOfFrames") or 1)
    pairs = [(header, 0) for header in headers] if len(headers) > 1 else [(headers[0], n) for n in range(frames)]
    found = [frame_place(header, index) for header, index in pairs]
    return None if any(place is None for place in found) else np.array([place[0] for place in found]) * [-1, -1, 1]  # type: ignore[index]


def away(grid: Grid, places: np.ndarray) -> float:
    """The largest distance of these places from the nearest voxel, mm."""
    assert grid.affine is not None
    voxels = np.linalg.solve(grid.affine, np.c_[places, np.ones(len(places))].T)
    return float(np.linalg.norm((grid.affine @ (voxels - np.rint(voxels)))[:3], axis=0).max())


def sizes(grids: Sequence[Grid]) -> str:
    """For people."""
    return ", ".join(" x ".join(map(str, grid.values.shape[:3])) for grid in grids) or "none"


def steps_of(headers: Sequence[Any]) -> str:
    """The distances between neighbouring places, by the headers of single images."""
    orientation = headers[0].get("ImageOrientationPatient")
    if len(headers) < 2 or not orientation:
        return ""
    normal = np.cross(*np.reshape(np.array(orientation, np.float64), (2, 3)))
    places = np.sort([np.array(header.ImagePositionPatient, np.float64) @ normal for header in headers])
    steps = np.diff(np.unique(places.round(3)))
    return " to ".join(dict.fromkeys(f"{n:.4g}" for n in (steps.min(), steps.max()))) if len(steps) else "one place"


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What became of the series."""
    volumes = [row for row in rows if row["verdict"] != LEFT]
    return {
        "series": len({row["series"] for row in rows}),
        "volumes": len(volumes),
        **{
            f"equal to {name}": sum(row[name] == 0 and row[f"{name}, mm"] <= LARGEST_MM for row in volumes)
            for name in PROGRAMS
        },
        "quarantined": len(rows) - len(volumes),
        "different": sum(row["verdict"] == DIFFERS for row in rows),
    }


def largest(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    """Of those that have a number there."""
    return max((row[column] for row in rows if isinstance(row[column], float)), default=0.0)


if __name__ == "__main__":
    main()
