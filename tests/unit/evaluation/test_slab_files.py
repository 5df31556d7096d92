"""Files that are written slab by slab: the same as those that are written at once."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuncta_dist.errors import RunFileError
from medfuncta_dist.evaluation.decode import Decoded, save
from medfuncta_dist.evaluation.slab_files import Slabs, Target, write_slabs
from medfuncta_dist.patches.blended_scan import Slab
from medfuncta_dist.scans.scan import Window

AFFINE = np.array([[0, -2.0, 0.3, 10], [1.5, 0, 0, -20], [0, 0.2, 3, 5], [0, 0, 0, 1]])
WINDOW = Window(-1000, 2000)
SHAPES = [(1, 5, 6, 7), (3, 5, 6, 7), (1, 9, 8), (2, 9, 8), (1, 30)]


def slabs_of(values: np.ndarray, planes: int = 2) -> Slabs:
    def slabs(across: int) -> Iterator[Slab]:
        for first in range(0, values.shape[1 + across], planes):
            part = np.arange(first, min(first + planes, values.shape[1 + across]))
            yield Slab(first, values.take(part, axis=1 + across))

    return slabs


def made(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def target(shape: tuple[int, ...], affine: np.ndarray | None = AFFINE) -> Target:
    return Target(shape, WINDOW, tuple(1.0 + axis for axis in range(len(shape) - 1)), affine)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.npy"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [AFFINE, None], ids=["affine", "spacing"])
def test_a_file_has_the_bytes_of_one_that_is_written_at_once(
    tmp_path: Path, name: str, shape: tuple[int, ...], affine: np.ndarray | None
) -> None:
    values, wanted = made(shape), target(shape, affine)
    whole, slabs = tmp_path / "whole" / name, tmp_path / name
    save(Decoded("k" * 64, values, WINDOW, wanted.spacing, affine, 30.0, False, False), whole)
    assert write_slabs(slabs, wanted, slabs_of(values))
    unpacked = gzip.decompress if name.endswith(".gz") else bytes
    assert unpacked(slabs.read_bytes()) == unpacked(whole.read_bytes())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]


def test_nifti_has_the_scans_units_and_its_place(tmp_path: Path) -> None:
    values = made((1, 4, 5, 6))
    write_slabs(tmp_path / "a.nii.gz", target(values.shape), slabs_of(values, 1))
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.get_fdata(), values[0] * 3000 - 1000, atol=1e-3)
    np.testing.assert_allclose(image.affine, AFFINE)


@pytest.mark.parametrize("shape", [(1, 40_000), (1, 2, 32_768), (1, 2, 2, 32_768)])
def test_nifti_refuses_an_axis_that_its_header_cannot_tell(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values, wanted = np.zeros(shape, np.float32), target(shape)
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(RunFileError, match=r"(?s)32767 points.*use \.npy, or a region"):
            write_slabs(tmp_path / name, wanted, slabs_of(values, 2**15))
        with pytest.raises(RunFileError, match="32767 points"):
            save(Decoded("k" * 64, values, WINDOW, wanted.spacing, AFFINE, 30.0, False, False), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    assert write_slabs(tmp_path / "a.npy", wanted, slabs_of(values, 2**15))


def test_a_file_that_is_interrupted_is_not_there(tmp_path: Path) -> None:
    def broken(across: int) -> Iterator[Slab]:
        yield from list(slabs_of(made((1, 4, 4, 4)))(across))[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_slabs(tmp_path / "a.nii.gz", target((1, 4, 4, 4)), broken)
    assert list(tmp_path.iterdir()) == []


def test_other_formats_are_left_to_others(tmp_path: Path) -> None:
    assert not write_slabs(tmp_path / "a.png", target((1, 4, 4)), slabs_of(made((1, 4, 4))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "scan.npy"])
def test_memory_holds_slabs_and_not_the_scan(tmp_path: Path, name: str) -> None:
    shape = (1, 128, 128, 128)
    plane = np.zeros((1, 128, 128), np.float32)

    def slabs(across: int) -> Iterator[Slab]:
        for first in range(shape[1 + across]):
            yield Slab(first, np.expand_dims(plane, 1 + across))

    tracemalloc.start()
    write_slabs(tmp_path / name, target(shape), slabs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 128**3 / 8
