"""From a latent back to a scan: at any resolution, same field of view, in the scan's units, as a common file format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from medfuncta_dist.config import load
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.decoded_grid import DecodedGrid
from medfuncta_dist.evaluation.fitted_scan import FittedScan
from medfuncta_dist.evaluation.slab_files import Target, nifti_image, write_slabs
from medfuncta_dist.fields.coordinates import Region
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.latent_table.latent_table import LatentTable
from medfuncta_dist.scans.scan import MAX_VALUES, Window
from medfuncta_dist.storage.digest import canonical_json

LARGEST_FILE = 2**33
"""Values of a file that is written slab by slab: 32 GiB, a whole-body CT at 0.3 mm."""
INTERPOLATED = "decode: this is finer than the scan's own points: between them, the network interpolates"
PICTURED = (1, 3)
"""Numbers of channels that a picture (PNG) shows as they are: grey, and colour."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A reconstruction. ``values`` (channel, *spatial) float32 in [0, 1]; ``window`` turns them into scan units."""

    key: str
    values: Float[np.ndarray, channel * spatial]
    window: Window
    spacing: tuple[float, ...]
    affine: Float[np.ndarray, "4 4"] | None
    psnr: float
    """Of the scan as packed, from all numbers that are stored; NaN where it is not known, as of imported latents."""
    below_min: bool
    upright: bool
    """The first axis runs to the patient's right and the second upwards (a slice of a volume), not (row, column)."""
    synthetic: str = ""
    """What every file says of values that are no scan's, ASCII, at most 79 characters; empty for those of a scan."""

    @property
    def scan_units(self) -> Float[np.ndarray, channel * spatial]:
        """Values in the units of the scan that was packed."""
        return self.window.restore(self.values)


def reconstruct(
    network: SharedNetwork, latents: Float[np.ndarray, "scan latent"], shape: Sequence[int]
) -> Float[np.ndarray, "scan channel *spatial"]:
    """Decode latents on a grid of any shape, on the network's device, in chunks of points; float32, in [0, 1]."""
    device = next(iter(network.params.values())).device
    values = network.decode(torch.from_numpy(np.ascontiguousarray(latents)).to(device), shape)
    return values.clamp(0, 1).cpu().numpy()


def decode(
    run: RunFile | str | Path,
    key: str,
    shape: Sequence[int] | None = None,
    keep: int | None = None,
    region: Region | None = None,
) -> Decoded:
    """One scan of a run, from its latent, or from those of its patches.

    Args:
        run: a run file, or the path of one.
        key: of the scan, or a beginning of it of at least 8 digits that no other key has.
        shape: points per axis. The field of view stays the same. None: as packed.
        keep: how many of a basis field's numbers to decode, the first ones. None: all that are stored.
        region: only these points of ``shape``: per axis (start, stop), None for all of it.

    Returns:
        Values (channel, *shape) in [0, 1], with spacing (mm) and affine of the new grid, PSNR (dB) as packed, and
        ``scan_units`` for values in the scan's own units.

    Raises:
        RunFileError: no scan, or several, have this key, the shape has another number of axes, the region is not in it,
            or there are not so many numbers to keep.
        StageOrderError: nothing is fitted yet.

    Examples:
        >>> decoded = decode("my-xrays.yaml", key, shape=(128, 128))
        >>> decoded.values.shape
        (1, 128, 128)
    """
    return decode_key(run if isinstance(run, RunFile) else load.load(run), key, shape, keep, region)


def decode_to_file(
    run: RunFile,
    key: str,
    out: Path,
    shape: Sequence[int] | None = None,
    keep: int | None = None,
    region: Region | None = None,
) -> dict[str, Any]:
    """Decode a scan into a file (see ``save``); the figures of the command ``decode``.

    NIfTI and npy files of scans that are grids of patches are written slab by slab, however large they are.
    """
    scan = FittedScan.open(LatentTable.open(run), key, keep)
    grid = DecodedGrid.of(scan.packed, shape, region)
    if not (scan.patches and _streamed(scan, grid, out)):
        save(_decoded(scan, grid), out)
    points = "x".join(map(str, grid.size))
    flag = " (flagged: below fit.min_psnr)" if scan.row["below_min"] else ""
    part, latent = ("", "latent") if keep is None else (f" from its first {keep} numbers", "whole latent")
    known = None if math.isnan(scan.row["psnr"]) else scan.row["psnr"]
    quality = "has no PSNR, as its scan was not packed" if known is None else f"reconstructs at {known:.2f} dB{flag}"
    said = f"decode: {points} points in {out}{part}; its {latent} {quality}"
    finer = [INTERPOLATED] if grid.interpolates else []
    return {
        "key": scan.row["key"],
        "file": str(out.resolve()),
        "shape": [scan.network.spec.channels, *grid.size],
        "psnr": known,
        "below_min": scan.row["below_min"],
        "interpolated": grid.interpolates,
        "said": [said, *finer],
    }


def decode_key(
    run: RunFile,
    key: str,
    shape: Sequence[int] | None = None,
    keep: int | None = None,
    region: Region | None = None,
) -> Decoded:
    """Decode the scan of this key (or of a unique beginning of it) at ``shape`` (None: as packed), on the CPU.

    ``keep``: as many of the latent's numbers, the first ones; None for all. RunFileError when there is no such latent,
    when the shape has another number of axes or a region is not in it, or when the latent has no such part.
    """
    scan = FittedScan.open(LatentTable.open(run), key, keep)
    return _decoded(scan, DecodedGrid.of(scan.packed, shape, region))


def _decoded(scan: FittedScan, grid: DecodedGrid) -> Decoded:
    grid.require_values(scan.network.spec.channels, MAX_VALUES)
    row = scan.row
    return Decoded(
        key=row["key"],
        values=scan.values(grid),
        window=scan.window,
        spacing=grid.spacing(row["spacing"]),
        affine=grid.placed(scan.affine, row["spacing"]),
        psnr=row["psnr"],
        below_min=row["below_min"],
        upright=row["slice"] is not None,
    )


def _streamed(scan: FittedScan, grid: DecodedGrid, out: Path) -> bool:
    """Write a scan of patches slab by slab; False for a format of which a slab cannot be written alone."""
    channels, spacing = scan.network.spec.channels, scan.row["spacing"]
    grid.require_values(channels, LARGEST_FILE)
    placed = grid.placed(scan.affine, spacing)
    target = Target((channels, *grid.size), scan.window, grid.spacing(spacing), placed)
    with _written(out):
        return write_slabs(out, target, lambda across: scan.slabs(grid, across))


def save(decoded: Decoded, path: Path) -> None:
    """Write a reconstruction; the suffix says how. RunFileError for one that does not suit the scan.

    .nii, .nii.gz: scan units, float32, with spacing and affine (2D: one slice; channels on the fifth axis).
    .png: 2D, 8 bits; scan units where they fit in 0..255, else the intensity window spread over 0..255.
    .csv: 1D, scan units, one line per channel. .npy: scan units, float32 (channel, *spatial).
    Synthetic values are marked: in NIfTI's descrip and intent_name, in a text chunk of a PNG, in a comment at the head
    of a CSV, in <file>.json beside an npy.
    """
    writer = next((w for suffix, w in _WRITERS.items() if path.name.lower().endswith(suffix)), None)
    if writer is None:
        raise RunFileError(f"no file format is known for '{path.name}'", where="--out", do=f"use {', '.join(_WRITERS)}")
    with _written(path):
        writer(decoded, path)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Its folder is there; RunFileError, in words, for what keeps the file from being written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunFileError(f"the file cannot be written: {reason}", where="--out", do="name another file") from error


def _nifti(decoded: Decoded, path: Path) -> None:
    image = nifti_image(decoded.scan_units, decoded.spacing, decoded.affine)
    if decoded.synthetic:
        image.header["descrip"], image.header["intent_name"] = decoded.synthetic.encode("ascii"), b"SYNTHETIC"
    nib.save(image, path)


def _png(decoded: Decoded, path: Path) -> None:
    if decoded.values.ndim != 3 or decoded.values.shape[0] not in PICTURED:
        raise RunFileError("a PNG holds a 2D scan of 1 or 3 channels", where="--out", do="use .nii.gz, .csv or .npy")
    picture = np.moveaxis(eight_bits(decoded.values, decoded.window), 0, -1)
    if decoded.upright:
        picture = np.rot90(picture)
    told = PngInfo()
    if decoded.synthetic:
        told.add_text("Description", decoded.synthetic)
        told.add_text("Title", decoded.key)
    Image.fromarray(picture.squeeze()).save(path, pnginfo=told)


def eight_bits(values: Float[np.ndarray, ...], window: Window) -> np.ndarray:
    """[0, 1] → uint8: scan units where the window lies in 0..255 (an 8-bit picture comes back as it was)."""
    as_scan = window.low >= 0 and window.high <= 255 and window.high - window.low > 1
    return np.asarray(np.rint(window.restore(values) if as_scan else values * 255).clip(0, 255), np.uint8)


def _csv(decoded: Decoded, path: Path) -> None:
    if decoded.values.ndim != 2:
        raise RunFileError("a CSV holds a 1D scan", where="--out", do="use .nii.gz, .png or .npy")
    np.savetxt(path, decoded.scan_units, fmt="%.9g", delimiter=",", header=decoded.synthetic)


def _npy(decoded: Decoded, path: Path) -> None:
    if decoded.synthetic:
        told = {"format_version": 1, "synthetic": True, "key": decoded.key, "mark": decoded.synthetic}
        path.with_name(f"{path.name}.json").write_bytes(canonical_json(told))
    np.save(path, decoded.scan_units, allow_pickle=False)


_WRITERS: dict[str, Callable[[Decoded, Path], None]] = {
    ".nii.gz": _nifti,
    ".nii": _nifti,
    ".png": _png,
    ".csv": _csv,
    ".npy": _npy,
}
