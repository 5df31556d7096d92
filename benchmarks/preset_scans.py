"""The scans of ``benchmarks/presets.py``: three data sets, each with training, validation and test scans kept apart.

- 2D: PneumoniaMNIST 28 x 28, its published splits.
- 1D: the 12-lead electrocardiogram among pydicom's test files, 10 s at 1 000 Hz, brought to 125 Hz and cut into rows of
  187 samples a lead, each scaled to [0, 1]: the layout of the paper's heart beats. Splits are blocks in time.
- 3D: cubes of 32 voxels on a side of MNI152 at 1 mm (nilearn's wheel). Splits are coronal slabs with gaps, so that a
  cube's mirror image is in its own split.

And a fourth, for the quickstart's own settings: the slices that it packs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pydicom
import torch
from torch import Tensor

from medfuncta_dist.config.load import parse
from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.evaluation.original_scans import values_of_shard
from medfuncta_dist.packing.pack_driver import pack
from medfuncta_dist.shards.snapshot import load_snapshot
from medfuncta_dist.streaming.worker_settings import WorkerSettings
from medfuncta_dist.task_map import map_here

SAMPLES, CUBE = 187, 32
DECIMATION = 8
"""1 000 Hz to 125 Hz, that of the MIT-BIH layout."""
SECONDS = {"train": (0.0, 6.0), "val": (6.1, 8.0), "test": (8.1, 10.0)}
"""Blocks of the electrocardiogram. Two rows of 1.5 s of one split overlap, those of two splits do not."""
SLABS = {"train": [(0, 56), (92, 140), (176, 233)], "val": [(58, 90)], "test": [(142, 174)]}
"""Coronal slabs of MNI152, as first voxel and end."""
MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


@dataclass(frozen=True)
class Scans:
    """One data set: (scan, point, channel) in [0, 1] by split, and the points an axis."""

    shape: tuple[int, ...]
    train: Tensor
    val: Tensor
    test: Tensor


def pneumonia(path: Path) -> Scans:
    """The first 256 validation scans, and all of the others."""
    with np.load(path, allow_pickle=False) as file:
        splits = [file[f"{split}_images"].reshape(-1, 28 * 28) / np.float32(255) for split in ("train", "val", "test")]
    train, val, test = (as_scans(split) for split in splits)
    return Scans((28, 28), train, val[:256], test)


def pneumonia_labels(path: Path) -> dict[str, np.ndarray]:
    """0 or 1 for each of these scans, by split."""
    with np.load(path, allow_pickle=False) as file:
        found = {split: file[f"{split}_labels"].ravel() for split in ("train", "val", "test")}
    return {**found, "val": found["val"][:256]}


def electrocardiogram(held_out: int = 10) -> Scans:
    """Every 4th sample starts a training row, every 10th (``held_out``) a held-out one."""
    leads = _leads()
    rows = {name: as_scans(_rows(leads, name, 4 if name == "train" else held_out)) for name in SECONDS}
    return Scans((SAMPLES,), **rows)


def _leads() -> np.ndarray:
    """(lead, sample) at 125 Hz."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "waveform_ecg.dcm"
    signal = pydicom.dcmread(path).waveform_array(0).T
    whole = signal.shape[1] // DECIMATION * DECIMATION
    return np.asarray(signal[:, :whole].reshape(len(signal), -1, DECIMATION).mean(2))


def _rows(leads: np.ndarray, split: str, stride: int) -> np.ndarray:
    first, end = (int(second * 1000 / DECIMATION) for second in SECONDS[split])
    starts = range(first, end - SAMPLES + 1, stride)
    rows = np.concatenate([leads[:, start : start + SAMPLES] for start in starts])
    low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
    return np.asarray((rows - low) / (high - low))


def mni_cubes() -> Scans:
    """Cubes a third of which at least is head; training cubes overlap by half, held-out ones do not."""
    volume = np.asarray(nib.load(mni152()).dataobj, np.float32) / 255
    cubes = {name: as_scans(_cubes(volume, slabs, 16 if name == "train" else CUBE)) for name, slabs in SLABS.items()}
    return Scans((CUBE, CUBE, CUBE), **cubes)


def mni152() -> Path:
    """The volume's file."""
    package = find_spec("nilearn")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("nilearn is not installed; its wheel carries MNI152")
    return Path(package.submodule_search_locations[0]) / MNI152


def _cubes(volume: np.ndarray, slabs: Iterable[tuple[int, int]], stride: int) -> np.ndarray:
    places = [
        (x, y, z)
        for first, end in slabs
        for x in range(2, volume.shape[0] - CUBE + 1, stride)
        for y in range(first, end - CUBE + 1, stride)
        for z in range(0, volume.shape[2] - CUBE + 1, stride)
    ]
    cubes = (volume[x : x + CUBE, y : y + CUBE, z : z + CUBE] for x, y, z in places)
    return np.stack([cube.ravel() for cube in cubes if (cube > 0.1).mean() >= 1 / 3])


def as_scans(rows: np.ndarray) -> Tensor:
    """(scan, value) as (scan, point, 1)."""
    return torch.from_numpy(rows.astype(np.float32))[..., None]


def quickstart_slices() -> Scans:
    """What the quickstart packs, held-out slabs in turns for validation and test."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "archive").mkdir()
        shutil.copy(mni152(), Path(folder) / "archive" / "t1.nii.gz")
        run = quickstart_run(
            f"storage={folder}/storage",
            f"data.source={folder}/archive/*.nii.gz",
            f"data.private={folder}/private",
            f"cluster.cache={folder}/cache",
        )
        pack(run, map_here, lambda _: None)
        store, cache = WorkerSettings.of(run).open()
        shards = load_snapshot(store, run.dataset, None).splits
        found = {
            split: as_scans(np.stack([v.ravel() for s in shards[split] for v in values_of_shard(store, cache, s)]))
            for split in ("train", "val", "test")
        }
    return Scans(tuple(run.data.shape), **found)


def quickstart_run(*overrides: str) -> RunFile:
    """The quickstart's run file, with validation slabs."""
    text = files("medfuncta_dist").joinpath("jobs/quickstart.yaml").read_text()
    return parse(text, ["data.slabs.split=[val, test]", *overrides])


def made_scans(axes: int) -> Scans:
    """Smooth scans that differ, for a short run without data: 40 to train on, 6 and 6 held out."""
    shape = {1: (40,), 2: (12, 12), 3: (8, 8, 8)}[axes]
    noise = torch.rand(52, 1, *([4] * axes), generator=torch.Generator().manual_seed(axes))
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[axes]
    scans = torch.nn.functional.interpolate(noise, size=shape, mode=mode, align_corners=True).reshape(52, -1, 1)
    return Scans(shape, scans[:40], scans[40:46], scans[46:])
