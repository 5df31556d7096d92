from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.readers.mgh import MghReader
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import NIBABEL, all_found, only
from tests.writers import write_mgh

READER = MghReader()
# Coronal, as FreeSurfer writes volumes: x to the left, y down, z to the front.
AFFINE = np.array([[-1.0, 0, 0, 90], [0, 0, 1.5, -80], [0, -2.0, 0, 70], [0, 0, 0, 1]])


def refusal(path: Path, reader: MghReader = READER) -> str:
    with pytest.raises(ScanError) as error:
        all_found(reader, path)
    assert path.name not in str(error.value)
    return error.value.what


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_values_and_geometry_are_nibabels(tmp_path: Path, name: str, dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 200, (4, 5, 6)).astype(dtype)
    scan = only(READER, write_mgh(tmp_path / name, array, AFFINE))
    image = nib.as_closest_canonical(nib.load(tmp_path / name))
    assert scan.array.dtype == dtype
    np.testing.assert_array_equal(scan.array[0], image.get_fdata())
    np.testing.assert_allclose(scan.affine, image.affine, atol=1e-4)
    assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
    assert scan.spacing == pytest.approx((1, 1.5, 2))


def test_the_real_file_of_nibabel() -> None:
    found = all_found(READER, NIBABEL / "test.mgz")
    image = nib.as_closest_canonical(nib.load(NIBABEL / "test.mgz"))
    assert [f.item for f in found] == ["volume/0", "volume/1"]
    for t, one in enumerate(found):
        assert isinstance(one.scan, Scan)
        np.testing.assert_array_equal(one.scan.array[0], image.get_fdata(dtype=np.float32)[..., t])
        np.testing.assert_allclose(one.scan.affine, image.affine, atol=1e-4)
    [second] = all_found(MghReader(1), NIBABEL / "test.mgz")
    assert second.item == "volume/1"
    assert "2 volumes" in refusal(NIBABEL / "test.mgz", MghReader(2))


def patched(path: Path, at: int, value: int) -> Path:
    raw = bytearray(path.read_bytes())
    raw[at : at + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(raw)
    return path


def test_damaged_and_lying_files_are_refused(tmp_path: Path) -> None:
    path = write_mgh(tmp_path / "a.mgh", np.zeros((4, 5, 6), np.int16), AFFINE)
    whole = path.read_bytes()
    path.write_bytes(whole[:400])
    assert refusal(path) == "the file is shorter than its header declares"
    for at, value, words in [
        (4, 2**31 - 1, "declares"),
        (4, 0, "an empty axis"),
        (4, -4, "an empty axis"),
        (16, 2**31 - 1, "the file is shorter"),
        (20, 7, "a type of values"),
        (0, 2, "not an MGH file"),
    ]:
        path.write_bytes(whole)
        assert words in refusal(patched(path, at, value))
    lying = tmp_path / "a.mgz"
    path.write_bytes(whole)
    lying.write_bytes(gzip.compress(patched(path, 16, 2**31 - 1).read_bytes()))
    assert refusal(lying) == "the file is shorter than its header declares"


def test_tags_after_the_values_are_passed_over(tmp_path: Path) -> None:
    path = write_mgh(tmp_path / "a.mgh", np.ones((4, 5, 6), np.int16), AFFINE)
    (tmp_path / "b.mgz").write_bytes(gzip.compress(path.read_bytes() + bytes(5000)))
    assert only(READER, tmp_path / "b.mgz").array.min() == 1
