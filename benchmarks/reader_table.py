"""Every image file that installed packages carry: read or refused, and its values and geometry beside other programs'.

Files go through the readers as ``pack`` uses them, before anything is resampled or normalised. Values are compared
with pydicom, nibabel, Pillow or tifffile, and with SimpleITK (extra ``compare``) where it is installed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Claim, arguments, report_page
from benchmarks.reader_files import PACKAGES, ImageFile, image_files, installed, or_none, quiet
from benchmarks.reader_references import (
    SIMPLEITK,
    Difference,
    Grid,
    at_the_same_place,
    by_dicom_header,
    by_simpleitk,
    dicom_frames,
    difference,
    frame_grid,
    mosaic_grid,
    nibabel_grid,
    padding_of,
    picture,
    with_background,
    with_syntax,
)

LARGEST_MM = 1e-4
NOT_COMPARED = "not compared"
READ, REFUSED, ASIDE = "read", "refused", "set aside"
POLICIES = {
    "a DICOM segmentation or dose, not a scan": "labels and doses are no images",
    "a mosaic whose slices do not fill it": "nibabel has cut these files down to a size that holds no whole slices",
    "expected volumes along the fourth axis, found 6 axes": "CIFTI: a matrix of connections, no image",
}
"""By the reason of a refusal: why it stays, although another program makes an array of the file."""
HELD = "an explicit key packs it"
SHORT = ("nibabel",)
LIBRARIES = {
    "dicom": "pydicom",
    "nifti": "nibabel",
    "mgh": "nibabel",
    "image": "Pillow",
    "tiff": "tifffile",
    "medmnist": "NumPy",
}
"""By reader, whose values are taken for right."""


@dataclass(frozen=True)
class Row:
    """A file. ``values`` and ``simpleitk``: the largest difference, or why there is none; ``mm``: of the affines."""

    package: str
    file: str
    kind: str
    result: str
    reason: str
    scans: int
    shape: str
    values: float | str
    simpleitk: float | str
    mm: float | str
    note: str
    wrong: bool
    decodable: bool
    """Another program makes an image of it."""


def main() -> None:
    short, began = arguments(__doc__).short, time.perf_counter()
    with image_files() as files:
        rows = [row_of(file) for file in files if not short or file.package in SHORT]
    read = [row for row in rows if row.result == READ]
    needless = [row for row in rows if row.result != READ and row.decodable and row.reason not in POLICIES]
    claims = [
        Claim("files read with another value or geometry", sum(row.wrong for row in rows), 0, at_least=False),
        Claim("files read that nothing was compared with", sum(map(_alone, read)), 0, at_least=False),
        Claim(
            "largest difference of an affine's element, mm",
            largest(row.mm for row in read),
            LARGEST_MM,
            at_least=False,
        ),
        Claim("files refused that another program decodes, by no policy", len(needless), 0, at_least=False),
    ]
    results = {"counts": counts(rows), "reasons": reasons(rows), "files": [asdict(row) for row in rows]}
    sections = {
        "Counts": counts(rows),
        "Refused and set aside, by reason": reasons(rows),
        "Files that were read": [shown(row) for row in read],
        "Files that were not": [
            {"package": r.package, "file": r.file, "result": r.result, "reason": r.reason, "decoded by others": r.note}
            for r in rows
            if r.result != READ
        ],
    }
    report_page("reader-table", short, began, results, claims, sections, NOTES)


NOTES = [
    "values: the largest absolute difference to pydicom (DICOM), nibabel (NIfTI, MGH), tifffile or Pillow (pictures); "
    "files with fractions are compared in float32, in which scans are stored",
    "padding (PixelPaddingValue) is compared as the smallest value of what is not padding: it is background in a scan",
    "mm: the largest difference of an element of the affine, to the header by DICOM's formula or to nibabel, and to "
    "SimpleITK; of a single image without its third axis' length, which no file tells",
    "where another program has other values, the script tests what the note says on all values of the file; a "
    "difference that no such test explains counts as wrong",
    "mosaics are compared with nibabel's values; their geometry with dcm2niix's, by series_volumes.py",
    "gzipped DICOM files of nibabel are unpacked first",
]


def row_of(file: ImageFile) -> Row:
    """What becomes of a file."""
    from medfuncta_dist.errors import ScanError

    if (reason := aside(file)) is not None:
        return unread(file, ASIDE, reason)
    try:
        with quiet():
            found = list(configured(file).scans(file.path))
    except ScanError as error:
        return unread(file, REFUSED, error.what)
    usable = [f.scan for f in found if not isinstance(f.scan, ScanError)]
    if len(usable) < len(found):
        return unread(file, REFUSED, next(f.scan.what for f in found if isinstance(f.scan, ScanError)))
    held = {f.burn_in or ("labels, by the file's own word" if f.mask else "") for f in found} - {""}
    return compared(file, usable, "; ".join(f"{reason} ({HELD})" for reason in sorted(held)))


def data() -> Any:
    """The data section of a run file."""
    from medfuncta_dist.config.sections.data_section import Data

    return Data.model_validate({"source": "/archive/*", "shape": [64, 64]})


def configured(file: ImageFile) -> Any:
    """The reader as a run file configures it."""
    from medfuncta_dist.scans.readers.reader_registry import Configurable

    return file.reader.for_data(data()) if isinstance(file.reader, Configurable) else file.reader


def aside(file: ImageFile) -> str | None:
    """Why ``pack`` would not open the file, by its name."""
    from medfuncta_dist.packing.sources.set_aside import reason_aside
    from medfuncta_dist.storage.sources import Source

    name = file.path.name
    reason = reason_aside(Source(f"/archive/{name}", name, file.path.stat().st_size), data(), [])
    return None if file.reader.name == "dicom" and reason and reason.startswith("no reader") else reason


def unread(file: ImageFile, result: str, reason: str) -> Row:
    """The row of a file that is not read: who else makes an image of it."""
    others = [name for name, read in readers_of(file).items() if or_none(read) is not None]
    return Row(
        file.package, file.name, file.reader.name, result, reason, 0, "", "", "", "", ", ".join(others), False,
        bool(others),
    )  # fmt: skip


def readers_of(file: ImageFile) -> dict[str, Callable[[], Any]]:
    """Other programs that may read a file."""
    import nibabel
    import pydicom

    own: dict[str, Callable[[], Any]] = {
        "dicom": lambda: dicom_frames(pydicom.dcmread(file.path, force=True)),
        "nifti": lambda: np.asanyarray(nibabel.load(file.path).dataobj),  # type: ignore[attr-defined]
        "mgh": lambda: np.asanyarray(nibabel.load(file.path).dataobj),  # type: ignore[attr-defined]
        "image": lambda: picture(file.path),
        "tiff": lambda: picture(file.path),
    }
    found = {LIBRARIES[file.reader.name]: own[file.reader.name]} if file.reader.name in own else {}
    return found | ({"SimpleITK": lambda: by_simpleitk(file.path)} if SIMPLEITK else {})


def compared(file: ImageFile, scans: Sequence[Any], held: str) -> Row:
    """The row of a file that is read."""
    ours = grid_of(scans)
    grids = {LIBRARIES[file.reader.name]: or_none(lambda: reference(file, scans))}
    if SIMPLEITK:
        grids["SimpleITK"] = or_none(lambda: shaped_as(by_simpleitk(file.path), ours, scans, file))
    found = {name: against(ours, grid) for name, grid in grids.items()}
    notes, wrong = [held] if held else [], False
    for name, one in found.items():
        if isinstance(one, str):
            notes.append(f"{name}: {one}")
        elif one.values != 0 or (one.mm or 0) > LARGEST_MM:
            why = explanation(ours, grids[name], file) if (one.mm or 0) <= LARGEST_MM else None
            notes.append(f"{name}: {why or 'differs'}")
            wrong |= why is None
    mm = [one.mm for one in found.values() if isinstance(one, Difference) and one.mm is not None]
    own, itk = (found.get(name, NOT_COMPARED) for name in (LIBRARIES[file.reader.name], "SimpleITK"))
    return Row(
        file.package,
        file.name,
        kind_of(file),
        READ,
        "",
        len(scans),
        " x ".join(map(str, scans[0].array.shape)),
        cell(own),
        cell(itk),
        max(mm) if mm else "no geometry",
        "; ".join(notes),
        wrong,
        True,
    )


def cell(found: Difference | str) -> float | str:
    """What a table says of the values."""
    if isinstance(found, str):
        return NOT_COMPARED
    return found.values if np.isfinite(found.values) else "NaN and numbers"


def against(ours: Grid, theirs: Grid | None) -> Difference | str:
    """The difference, or why there is none."""
    if theirs is None:
        return "makes nothing of it"
    try:
        return difference(ours, theirs)
    except ValueError as error:
        return str(error)


def grid_of(scans: Sequence[Any]) -> Grid:
    """The scans of a file as one grid: images side by side along the third axis, volumes as channels."""
    arrays = [np.moveaxis(scan.array, 0, -1) for scan in scans]
    if arrays[0].ndim == 3:
        return Grid(np.stack(arrays, axis=2), scans[0].affine if len(scans) == 1 else None)
    return Grid(np.concatenate(arrays, axis=-1), scans[0].affine)


def reference(file: ImageFile, scans: Sequence[Any]) -> Grid:
    """By the library of the format."""
    if file.reader.name == "dicom":
        import pydicom

        from medfuncta_dist.scans.readers.dicom.mosaic import is_mosaic

        dataset = pydicom.dcmread(file.path, force=True)
        if is_mosaic(dataset.get("ImageType") or ()):
            return mosaic_grid(dataset, scans[0].affine)
        frames, _ = dicom_frames(dataset)
        return frame_grid(frames) if len(scans[0].shape) == 2 and len(scans) > 1 else by_dicom_header(dataset, frames)
    if file.reader.name in ("nifti", "mgh"):
        return nibabel_grid(file.path)
    return picture(file.path)


def shaped_as(theirs: Grid, ours: Grid, scans: Sequence[Any], file: ImageFile) -> Grid:
    """SimpleITK's image with its axes as in an image of ours, (row, column), and with padding as background."""
    values, affine = theirs.values, theirs.affine
    if len(scans[0].shape) == 2:
        values = values.transpose(1, 0, 2, 3)
        affine = None if affine is None else affine[:, [1, 0, 2, 3]]
        if file.reader.name == "dicom" and values.shape[3] == 1:
            values = padded(values, file.path)
    if values.shape[3] == 4 and ours.values.shape[3] == 3:
        values = on_black(values)
    return Grid(values, None if ours.affine is None else affine)


def padded(values: np.ndarray, path: Path) -> np.ndarray:
    """(row, column, frame, 1) with padding as background."""
    import pydicom

    dataset = pydicom.dcmread(path, force=True)
    with_syntax(dataset)
    if "PixelPaddingValue" not in dataset:
        return values
    padding = padding_of(dataset, dataset.pixel_array)
    return with_background(values[:, :, 0, 0], padding)[:, :, None, None]


def on_black(values: np.ndarray) -> np.ndarray:
    """Colours with transparency over black."""
    largest = float(np.iinfo(values.dtype).max)
    return np.floor(values[..., :3].astype(np.float64) * values[..., 3:] / largest + 0.5).astype(values.dtype)


def explanation(ours: Grid, theirs: Grid, file: ImageFile) -> str | None:
    """Why another program has other values, where one of the known reasons is the whole difference."""
    if ours.affine is not None and theirs.affine is not None:
        theirs = at_the_same_place(theirs, ours.affine)
    found = (words for words, holds in EXPLANATIONS if or_none(lambda holds=holds: holds(ours, theirs, file)))
    return next(found, None)


def _high_bits(ours: Grid, theirs: Grid, file: ImageFile) -> bool:
    return bool((ours.values >> 8 == theirs.values).all()) and theirs.values.max() < 256


def _without_table(ours: Grid, theirs: Grid, file: ImageFile) -> bool:
    import pydicom

    dataset = pydicom.dcmread(file.path, force=True)
    return "ModalityLUTSequence" in dataset and bool((theirs.values[:, :, 0, 0] == dataset.pixel_array).all())


def _bytes_exchanged(ours: Grid, theirs: Grid, file: ImageFile) -> bool:
    pixels = [np.ascontiguousarray(g.values).reshape(-1, g.values.shape[-1]).view(np.uint8) for g in (ours, theirs)]
    return bool((np.sort(pixels[0], axis=1) == np.sort(pixels[1], axis=1)).all())


def _still_ybr(ours: Grid, theirs: Grid, file: ImageFile) -> bool:
    from pydicom.pixels import convert_color_space

    converted = convert_color_space(np.ascontiguousarray(theirs.values), "YBR_FULL", "RGB").astype(int)
    return bool(((np.abs(converted - ours.values) <= 1) | (theirs.values == ours.values)).all())


def _own_jpeg_decoder(ours: Grid, theirs: Grid, file: ImageFile) -> bool:
    """ISO/IEC 10918-2 lets decoders round differently, and says nothing about how reduced colour is enlarged."""
    luma = np.array([0.299, 0.587, 0.114])
    away = np.abs(ours.values @ luma - theirs.values @ luma)
    return file.path.suffix in (".jpg", ".jpeg") and float(away.max()) < 5 and float(away.mean()) < 0.5


def _nothing_for_nan(ours: Grid, theirs: Grid, file: ImageFile) -> bool:
    undefined = np.isnan(ours.values)
    return bool((theirs.values.astype(ours.values.dtype) == ours.values)[~undefined].all()) and undefined.any()


EXPLANATIONS: Sequence[tuple[str, Callable[[Grid, Grid, ImageFile], bool]]] = (
    ("has only the high 8 of 16 bits", _high_bits),
    ("leaves the modality table out", _without_table),
    ("exchanges the bytes within a pixel of RLE colours", _bytes_exchanged),
    ("leaves the colours, or those of some rows, in YBR", _still_ybr),
    ("decodes lossy JPEG with other rounding (grey within 5 of 255, on average 0.5)", _own_jpeg_decoder),
    ("has numbers where the file has NaN", _nothing_for_nan),
)


def counts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """By package, and all."""
    here = installed()
    table = [{"package": name, **sums([r for r in rows if r.package == name])} for name in PACKAGES if name in here]
    missing = [name for name in PACKAGES if name not in here]
    return [*table, {"package": "all", **sums(rows)}, *({"package": f"{name}: not installed"} for name in missing)]


def sums(rows: Sequence[Row]) -> dict[str, Any]:
    """What became of these files."""
    read = [row for row in rows if row.result == READ]
    results = Counter(row.result for row in rows)
    return {
        "files": len(rows),
        READ: len(read),
        "of these held back by default": sum(HELD in row.note for row in read),
        "values equal": sum(row.values == 0 for row in read),
        "equal to SimpleITK": sum(row.simpleitk == 0 for row in read),
        "another program differs, explained": sum(_differs(row) and not row.wrong for row in read),
        "with geometry": sum(not isinstance(row.mm, str) for row in read),
        "largest mm": largest(row.mm for row in read),
        REFUSED: results[REFUSED],
        ASIDE: results[ASIDE],
        "wrong": sum(row.wrong for row in rows),
    }


def _alone(row: Row) -> bool:
    return (row.values, row.simpleitk) == (NOT_COMPARED, NOT_COMPARED)


def _differs(row: Row) -> bool:
    return any(found not in (0, NOT_COMPARED) for found in (row.values, row.simpleitk))


def largest(numbers: Iterable[float | str]) -> float:
    """Of those that are numbers."""
    return max((n for n in numbers if not isinstance(n, str)), default=0.0)


def reasons(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Why files are not read, how many, and how many of them another program decodes."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.result != READ:
            found.setdefault((row.result, row.reason), []).append(row)
    return [
        {
            "result": result,
            "reason": reason,
            "files": len(group),
            "decoded by others": sum(row.decodable for row in group),
            "why": POLICIES.get(reason, "") if any(row.decodable for row in group) else "",
        }
        for (result, reason), group in sorted(found.items(), key=lambda item: (item[0][0], -len(item[1])))
    ]


def kind_of(file: ImageFile) -> str:
    """The format; of a DICOM file, the name of its transfer syntax too."""
    if file.reader.name != "dicom":
        return file.reader.name
    import pydicom

    with quiet():
        meta = pydicom.dcmread(file.path, force=True, stop_before_pixels=True).file_meta
    return f"dicom, {meta.TransferSyntaxUID.name if 'TransferSyntaxUID' in meta else 'no transfer syntax'}"


def shown(row: Row) -> Mapping[str, Any]:
    """The row of the page's table."""
    return {
        "package": row.package,
        "file": row.file,
        "kind": row.kind,
        "scans": row.scans,
        "shape": row.shape,
        "values": row.values,
        "SimpleITK": row.simpleitk,
        "mm": row.mm,
        "wrong": "**yes**" if row.wrong else "no",
        "note": row.note,
    }


if __name__ == "__main__":
    main()
