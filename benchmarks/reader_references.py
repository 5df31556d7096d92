"""What other programs make of image files: arrays with their geometry, in the conventions of our scans.

pydicom, nibabel, Pillow and tifffile come with the product, whose readers use them too: here their own functions are
called, from the file to the values. SimpleITK has decoders and geometry of its own, and may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SIMPLEITK = find_spec("SimpleITK") is not None


@dataclass(frozen=True)
class Grid:
    """values: (i, j, k, channel); affine: (4, 4), (i, j, k, 1) → RAS mm, None where nothing is known of it."""

    values: np.ndarray
    affine: np.ndarray | None


@dataclass(frozen=True)
class Difference:
    """values: the largest absolute difference; mm: the largest of the affines' elements, None without them."""

    values: float
    mm: float | None


def by_simpleitk(path: Path) -> Grid:
    """As SimpleITK reads a file: (column, row, slice), as everywhere in ITK."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return grid_of_itk(sitk.ReadImage(str(path)))


def grid_of_itk(image: Any) -> Grid:
    """Of an image of SimpleITK."""
    import SimpleITK as sitk

    values = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        values = values[..., None]
    if image.GetDimension() == 2:
        return Grid(values.transpose(1, 0, 2)[:, :, None], None)
    axes = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (axes, axes))[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    if axes == 4:
        values = np.moveaxis(values, 0, 3).reshape(*values.shape[1:4], -1)
    return Grid(values.transpose(2, 1, 0, 3), LPS_TO_RAS @ affine)


def dicom_frames(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """(frame, row, column, channel) by pydicom's own functions: in units, high is bright, colour as RGB, padding as
    background; and the values as stored."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    with_syntax(dataset)
    stored = dataset.pixel_array
    if int(dataset.get("NumberOfFrames") or 1) == 1:
        stored = stored[None]
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return apply_color_lut(stored, dataset)[..., :3], stored[..., None]
    if stored.ndim == 4:
        return stored, stored
    values = stored
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = ~stored if dataset.PixelRepresentation else 2 ** int(dataset.BitsStored) - 1 - stored.astype(int)
    values = with_background(apply_modality_lut(values, scaled(dataset)), padding_of(dataset, stored))
    return values[..., None], stored[..., None]


def with_syntax(dataset: Any) -> None:
    """The standard's default for a file that names no transfer syntax."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


def scaled(dataset: Any) -> Any:
    """The data set with the slope and intercept of an enhanced file where pydicom looks for them."""
    for groups in (dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")):
        for macro in (groups[0].get("PixelValueTransformationSequence") if groups else None) or []:
            dataset.RescaleSlope, dataset.RescaleIntercept = macro.RescaleSlope, macro.RescaleIntercept
    return dataset


def padding_of(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Where the values are padding."""
    ends = [dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")]
    known = [int(end) for end in ends if end is not None]
    inside = np.zeros(stored.shape, bool)
    return (stored >= min(known)) & (stored <= max(known)) if ends[0] is not None else inside


def with_background(values: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Padding as the smallest value of the others."""
    return np.where(padding, values[~padding].min(), values) if padding.any() and not padding.all() else values


def at_the_same_place(grid: Grid, affine: np.ndarray) -> Grid:
    """The grid with its axes in the order and direction of another one's. ValueError where they are not parallel."""
    assert grid.affine is not None
    steps = np.linalg.solve(grid.affine[:3, :3], affine[:3, :3])
    axes = [int(axis) for axis in np.abs(steps).argmax(axis=0)]
    if sorted(axes) != [0, 1, 2]:
        raise ValueError("the axes are not parallel")
    values, moved = grid.values.transpose(*axes, 3), grid.affine[:, [*axes, 3]].copy()
    for to, axis in enumerate(axes):
        if steps[axis, to] < 0:
            values = np.flip(values, to)
            moved[:3, 3] += moved[:3, to] * (values.shape[to] - 1)
            moved[:3, to] *= -1
    return Grid(values, moved)


def difference(ours: Grid, theirs: Grid) -> Difference:
    """Of two grids, which may have their axes in another order. ValueError where one has other voxels.

    Their values are taken in the type of ours: float32 where the file has fractions.
    """
    mm = None
    if ours.affine is not None and theirs.affine is not None:
        theirs = at_the_same_place(theirs, ours.affine)
        assert theirs.affine is not None
        mm = float(np.abs(_known(ours) - _known(theirs)).max())
    if ours.values.shape != theirs.values.shape:
        raise ValueError("another number of voxels")
    with np.errstate(over="ignore"):
        wanted = theirs.values.astype(ours.values.dtype) if ours.values.dtype.kind == "f" else theirs.values
    away = np.abs(ours.values.astype(np.float64) - wanted)
    nan = np.isnan(ours.values).astype(int) + np.isnan(wanted)
    return Difference(float(np.where(nan == 2, 0, np.where(nan == 1, np.inf, away)).max()), mm)


def _known(grid: Grid) -> np.ndarray:
    """The affine; of a single slice, whose neighbours no file places, with a third axis of length 1."""
    assert grid.affine is not None
    affine = grid.affine.copy()
    if grid.values.shape[2] == 1:
        affine[:3, 2] /= np.linalg.norm(affine[:3, 2])
    return affine


def frame_grid(frames: np.ndarray) -> Grid:
    """(frame, row, column, channel) as images side by side."""
    return Grid(frames.transpose(1, 2, 0, 3), None)


def by_dicom_header(dataset: Any, frames: np.ndarray) -> Grid:
    """The frames in the order of their places, with the affine of DICOM PS3.3 C.7.6.2.1.1, from the elements
    themselves."""
    places = [frame_place(dataset, index) for index in range(len(frames))]
    if any(place is None for place in places):
        return frame_grid(frames)
    position, along_row, down_column, spacing = (np.array(column) for column in zip(*places, strict=True))
    normal = np.cross(along_row[0], down_column[0])
    order = np.argsort(position @ normal)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = down_column[0] * spacing[0][0], along_row[0] * spacing[0][1]
    affine[:3, 2] = (position[order[-1]] - position[order[0]]) / (len(order) - 1) if len(order) > 1 else normal
    affine[:3, 3] = position[order[0]]
    return Grid(frames[order].transpose(1, 2, 0, 3), LPS_TO_RAS @ affine)


def frame_place(dataset: Any, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Position of a frame, its unit vectors along a row and down a column (LPS), and the spacing of its pixels."""
    groups = [dataset.get("SharedFunctionalGroupsSequence"), dataset.get("PerFrameFunctionalGroupsSequence")]
    levels = [dataset, *([groups[0][0]] if groups[0] else []), *([groups[1][index]] if groups[1] else [])]

    def value(name: str, macro: str) -> Any:
        inner = [level[macro].value[0] for level in levels if macro in level]
        found = [level.get(name) for level in [dataset, *inner] if level.get(name)]
        return np.array(found[-1], np.float64) if found else None

    position = value("ImagePositionPatient", "PlanePositionSequence")
    orientation = value("ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = value("PixelSpacing", "PixelMeasuresSequence")
    if position is None or orientation is None or spacing is None or not orientation.any():
        return None
    vectors = [vector / np.linalg.norm(vector) for vector in orientation.reshape(2, 3)]
    return position, *vectors, spacing


def mosaic_grid(dataset: Any, affine: np.ndarray) -> Grid:
    """The slices of a Siemens mosaic by nibabel, in the order of axes of an affine."""
    from nibabel.nicom.dicomwrappers import wrapper_from_data

    wrapped: Any = wrapper_from_data(dataset)  # type: ignore[no-untyped-call]
    grid = Grid(np.asarray(wrapped.get_data())[..., None], LPS_TO_RAS @ wrapped.affine)
    return Grid(at_the_same_place(grid, affine).values, None)


def nibabel_grid(path: Path) -> Grid:
    """As nibabel reads a file; volumes along the fourth axis are channels."""
    import nibabel

    image: Any = nibabel.load(path)  # type: ignore[attr-defined]
    values = np.asanyarray(image.dataobj)
    if values.dtype.names:
        values = np.stack([values[name] for name in values.dtype.names[:3]], axis=-1)
        return Grid(values.reshape(*values.shape[:3], -1), image.affine)
    shape = (*values.shape, 1, 1)[:3]
    return Grid(values.reshape(*shape, -1), image.affine)


def picture(path: Path) -> Grid:
    """A picture by Pillow, a TIFF by tifffile: (row, column, page, channel), colours over black."""
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        with tifffile.TiffFile(path) as file:
            pages = [np.moveaxis(p.asarray(), 0, -1) if p.axes == "SYX" else p.asarray() for p in file.pages]
    else:
        from PIL import Image

        with Image.open(path) as image:
            image.load()
            see_through = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            if see_through:
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                pages = [np.asarray(Image.alpha_composite(black, image.convert("RGBA")).convert("RGB"))]
            else:
                pages = [np.asarray(image.convert("RGB") if image.mode in ("P", "CMYK") else image)]
    return Grid(np.stack([page.reshape(*page.shape[:2], -1) for page in pages], axis=2), None)
