from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import hypothesis.extra.numpy
import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.canonical import canonical
from medfuncta_dist.scans.readers import volume_file
from medfuncta_dist.scans.readers.nifti import HALF_OF_PAIR, NiftiReader, other_of_pair, values_of_pair
from medfuncta_dist.scans.scan import Scan
from tests.unit.scans.archive import NIBABEL, NILEARN, all_found, declared, only
from tests.writers import PATIENT, write_nifti, write_nifti_pair

READER = NiftiReader()


def test_values_affine_and_spacing(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[2, 0, 0, -20.0], [0, 1.5, 0, 10], [0, 0, 3, 5], [0, 0, 0, 1]])
    scan = only(READER, write_nifti(tmp_path / "a.nii.gz", array=array, affine=affine))
    assert (scan.array == array[None]).all()
    assert scan.array.dtype == np.int16
    assert scan.spacing == (2, 1.5, 3)
    assert scan.affine is not None
    assert (scan.affine == affine).all()


@given(st.permutations([0, 1, 2]), st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None)
def test_any_orientation_becomes_ras_and_no_voxel_moves_in_the_world(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], signs: list[int]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(np.array(signs) * [2.0, 1.5, 3.0]) + 0.1)[:, order]  # oblique
    affine[:3, 3] = [5, -6, 7]
    array = np.random.default_rng(0).permutation(24).astype(np.int16).reshape(2, 3, 4)
    scan = only(READER, write_nifti(tmp_path_factory.mktemp("n") / "a.nii", array=array, affine=affine))
    assert scan.affine is not None
    assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
    for index in np.ndindex(array.shape):
        there = np.linalg.solve(scan.affine, affine @ [*index, 1])[:3]
        np.testing.assert_allclose(there, np.rint(there), atol=1e-4)
        assert scan.array[0, *np.rint(there).astype(int)] == array[index]


def test_real_brain_the_same_as_nibabels_canonical() -> None:
    path = NILEARN / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    scan = only(READER, path)
    image = nib.as_closest_canonical(nib.load(path))
    assert scan.shape == (197, 233, 189)
    assert (scan.array[0] == np.asanyarray(image.dataobj)).all()
    assert (scan.affine == image.affine).all()


def test_landmark_of_the_real_brain_stays_at_its_place_through_the_canonical_transform() -> None:
    scan = only(READER, NILEARN / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")

    def centre_of_mass(array: np.ndarray, affine: np.ndarray | None) -> np.ndarray:
        assert affine is not None
        weights = array[0].astype(float)
        return (affine @ [*((weights * i).sum() / weights.sum() for i in np.indices(weights.shape)), 1])[:3]

    before = centre_of_mass(scan.array, scan.affine)
    for aspect in ("pad", "stretch"):
        small = canonical(scan, declared([32, 32, 32], aspect=aspect))
        assert np.abs(centre_of_mass(small.array, small.affine) - before).max() < 0.5  # mm; a voxel has 7


def test_left_handed_big_endian_file_of_nibabel() -> None:
    path = NIBABEL / "anatomical.nii"
    scan = only(READER, path)
    image = nib.as_closest_canonical(nib.load(path))
    assert scan.array.dtype.isnative
    assert (scan.array[0] == np.asanyarray(image.dataobj)).all()
    np.testing.assert_allclose(scan.spacing, nib.affines.voxel_sizes(image.affine))


def test_scaled_integers_become_floats(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii")
    scan = only(READER, tmp_path / "a.nii")
    expected = nib.load(tmp_path / "a.nii").get_fdata()
    assert scan.array.dtype == np.float32
    np.testing.assert_allclose(scan.array[0], expected, rtol=1e-6)


def test_metres_and_microns_become_millimetres(tmp_path: Path) -> None:
    for unit, factor in (("meter", 1000.0), ("micron", 0.001)):
        image = nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.diag([2.0, 2, 2, 1]))
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / "a.nii")
        scan = only(READER, tmp_path / "a.nii")
        assert scan.spacing == pytest.approx((2 * factor,) * 3)
        assert scan.affine is not None
        assert np.diag(scan.affine) == pytest.approx([2 * factor] * 3 + [1])


def test_a_single_slice_and_a_series_of_one(tmp_path: Path) -> None:
    flat = only(READER, write_nifti(tmp_path / "a.nii", array=np.arange(6, dtype=np.uint8).reshape(2, 3)))
    assert flat.shape == (2, 3, 1)
    series = np.zeros((2, 3, 4, 1, 1), np.uint8)
    assert only(READER, write_nifti(tmp_path / "b.nii", array=series)).shape == (2, 3, 4)


def test_version_2_is_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.ones((2, 3, 4), np.float32), np.eye(4)), tmp_path / "a.nii")
    assert only(READER, tmp_path / "a.nii").shape == (2, 3, 4)


def refusal(path: Path) -> str:
    with pytest.raises(ScanError) as error:
        all_found(READER, path)
    assert PATIENT not in str(error.value)
    assert path.name not in str(error.value)
    return error.value.what


@pytest.mark.parametrize("name", ["example4d.nii.gz", "functional.nii"])
def test_every_volume_of_a_real_series_as_nibabel_has_it(name: str) -> None:
    image = nib.as_closest_canonical(nib.load(NIBABEL / name))
    found = all_found(READER, NIBABEL / name)
    assert [f.item for f in found] == [f"volume/{t}" for t in range(image.shape[3])]
    for t, one in enumerate(found):
        assert isinstance(one.scan, Scan)
        assert one.alike
        np.testing.assert_array_equal(one.scan.array[0], image.slicer[..., t].get_fdata(dtype=np.float32))
        np.testing.assert_allclose(one.scan.affine, image.affine, atol=1e-4)


@given(hypothesis.extra.numpy.array_shapes(min_dims=4, max_dims=4, min_side=1, max_side=5), st.booleans(), st.data())
@settings(max_examples=25, deadline=None)
def test_any_series_volume_by_volume(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], packed: bool, data: st.DataObject
) -> None:
    array = np.random.default_rng(0).integers(-9, 9, shape).astype(np.int16)
    path = write_nifti(tmp_path_factory.mktemp("n") / ("a.nii.gz" if packed else "a.nii"), array=array)
    found = all_found(READER, path)
    assert len(found) == shape[3]
    for t, one in enumerate(found):
        assert isinstance(one.scan, Scan)
        np.testing.assert_array_equal(one.scan.array[0], array[..., t])
    chosen = data.draw(st.integers(0, shape[3] - 1))
    [one] = all_found(NiftiReader(chosen), path)
    assert one.item == found[chosen].item
    assert isinstance(one.scan, Scan)
    np.testing.assert_array_equal(one.scan.array[0], array[..., chosen])


def test_a_number_that_a_series_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", array=np.zeros((2, 3, 4, 3), np.uint8))
    with pytest.raises(ScanError, match=r"has 3 volumes.*data\.volume"):
        all_found(NiftiReader(3), path)
    assert len(all_found(NiftiReader(3), write_nifti(tmp_path / "b.nii"))) == 1  # a file of one volume has no choice


def test_one_volume_of_a_series_is_in_memory_at_a_time(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", array=np.zeros((64, 64, 64, 40), np.int16))  # 21 MB
    tracemalloc.start()
    count = sum(1 for _ in READER.scans(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40
    assert peak < 6e6


def test_a_damaged_series_is_refused_before_its_first_volume(tmp_path: Path) -> None:
    raw = write_nifti(tmp_path / "a.nii", array=np.zeros((8, 8, 8, 4), np.int16)).read_bytes()
    packed = bytearray(gzip.compress(raw, compresslevel=0))
    packed[-100] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(ScanError, match="not a readable NIfTI file"):
        next(READER.scans(tmp_path / "a.nii.gz"))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw[:-8]))
    assert refusal(tmp_path / "b.nii.gz") == "the file is shorter than its header declares"


def test_an_affine_of_zeros_is_the_reason(tmp_path: Path) -> None:
    raw = header_of(write_nifti(tmp_path / "a.nii"), srow_x=np.zeros(4), srow_y=np.zeros(4), srow_z=np.zeros(4))
    (tmp_path / "a.nii").write_bytes(raw)
    assert refusal(tmp_path / "a.nii") == "the affine is not invertible"


def test_further_axes_are_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", array=np.zeros((2, 3, 4, 1, 3), np.float32))
    assert refusal(path) == "expected volumes along the fourth axis, found 5 axes"
    image = nib.Nifti1Image(np.zeros((2, 3, 4, 3), np.float32), np.eye(4))
    image.header["intent_code"] = 1006
    nib.save(image, path)
    assert refusal(path) == "displacements, not an image"


def test_colours_are_channels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4)).astype(np.uint8)
    affine = np.diag([-2.0, 3, 4, 1])
    rgb = np.ascontiguousarray(values[..., :3]).view([(c, "u1") for c in "RGB"])[..., 0]
    scan = only(READER, write_nifti(tmp_path / "a.nii.gz", array=rgb, affine=affine))
    np.testing.assert_array_equal(scan.array, np.moveaxis(values[::-1, :, :, :3], -1, 0))
    assert scan.spacing == (2, 3, 4)
    rgba = values.view([(c, "u1") for c in "RGBA"])[..., 0]
    scan = only(READER, write_nifti(tmp_path / "a.nii.gz", array=rgba, affine=affine))
    black = np.rint(values[..., :3].astype(float) * values[..., 3:] / 255)
    np.testing.assert_array_equal(scan.array, np.moveaxis(black[::-1], -1, 0))
    values[..., 3] = 0
    assert refusal(write_nifti(tmp_path / "a.nii", array=rgba)) == "colours that are transparent everywhere"


AFFINE = np.array([[2, 0.1, 0, -20.0], [0, 1.5, 0, 10], [0, 0, 3, 5], [0, 0, 0, 1]])


@pytest.mark.parametrize("listed", [0, 1])
@pytest.mark.parametrize("names", [(".hdr", ".img"), (".HDR", ".IMG"), (".hdr.gz", ".img.gz")])
def test_a_pair_is_read_by_either_of_its_files(tmp_path: Path, names: tuple[str, str], listed: int) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    pair = []
    for path, suffix in zip(write_nifti_pair(tmp_path, array=array, affine=AFFINE), names, strict=True):
        pair.append(tmp_path / f"a{suffix}")
        pair[-1].write_bytes(gzip.compress(path.read_bytes()) if suffix.endswith("gz") else path.read_bytes())
    scan = only(READER, pair[listed])
    np.testing.assert_array_equal(scan.array[0], array)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-6)
    pair[1 - listed].unlink()
    assert refusal(pair[listed]) == HALF_OF_PAIR


def test_a_pair_s_values_are_bounded_by_their_own_file(tmp_path: Path) -> None:
    _, values = write_nifti_pair(tmp_path, array=np.zeros((4, 4, 4), np.int16), affine=AFFINE)
    values.write_bytes(values.read_bytes()[:-1])
    assert refusal(values) == "the file is shorter than its header declares"


def test_an_analyze_header_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.hdr").write_bytes((NIBABEL / "analyze.hdr").read_bytes())
    (tmp_path / "a.img").write_bytes(bytes(10**6))
    assert refusal(tmp_path / "a.img") == "an Analyze 7.5 header, which does not say which side is left"
    single = write_nifti(tmp_path / "b.nii")
    single.rename(tmp_path / "a.hdr")
    assert refusal(tmp_path / "a.img") == "a NIfTI header whose values are in this file"


def test_names_of_pairs() -> None:
    assert other_of_pair("s3://b/x/A.hdr.gz") == "s3://b/x/A.img.gz"
    assert other_of_pair("a.b.IMG") == "a.b.HDR"
    assert other_of_pair("a.nii") is None
    assert {values_of_pair(name) for name in ("x/a.hdr", "x/a.img")} == {"x/a.img"}
    assert values_of_pair("a.nii.gz") == "a.nii.gz"


def test_a_map_of_labels_is_told_by_its_intent(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((2, 3, 4), np.uint8), np.eye(4))
    for intent, mask in ((1002, True), (0, False)):
        image.header["intent_code"] = intent
        nib.save(image, tmp_path / "a.nii")
        [found] = all_found(READER, tmp_path / "a.nii")
        assert found.mask is mask


def test_other_formats_are_refused(tmp_path: Path) -> None:
    assert refusal(NIBABEL / "test.mgz") == "not a NIfTI file"
    (tmp_path / f"{PATIENT}.nii").write_bytes(PATIENT.encode() * 100)
    assert refusal(tmp_path / f"{PATIENT}.nii") == "not a NIfTI file"
    assert refusal(tmp_path / "missing.nii") in ("not a readable NIfTI file", "the file could not be read (error 2)")


def test_values_that_are_not_real_numbers_are_refused(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", array=np.zeros((2, 3, 4), np.complex64))
    assert refusal(path) == "complex values: nothing says whether magnitude, phase or parts are the scan"


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    whole = write_nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").write_bytes(whole[:-1])
    assert refusal(tmp_path / "a.nii") == "the file is shorter than its header declares"
    packed = write_nifti(tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(packed[: len(packed) // 2])
    assert refusal(tmp_path / "a.nii.gz") == "not a readable NIfTI file"


def header_of(path: Path, **fields: float | bytes | np.ndarray) -> bytes:
    """The file's bytes with fields of the NIfTI-1 header changed."""
    raw = bytearray(path.read_bytes())
    for name, value in fields.items():
        kind = nib.nifti1.header_dtype[name]
        at = nib.nifti1.header_dtype.fields[name][1]
        raw[at : at + kind.itemsize] = np.array(value, kind.base).tobytes()
    return bytes(raw)


@pytest.mark.parametrize("offset", [1e9, -1.0, 2.0**24 + 16, float("nan"), float("inf")])
def test_values_far_away_from_the_header_are_refused(tmp_path: Path, offset: float) -> None:
    raw = header_of(write_nifti(tmp_path / "a.nii"), vox_offset=offset)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw))
    assert refusal(tmp_path / "a.nii.gz")


def test_a_header_whose_values_are_in_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(header_of(write_nifti(tmp_path / "b.nii"), magic=b"ni1"))
    assert refusal(tmp_path / "a.nii") == "a NIfTI header whose values are in another file"


def test_a_gzip_file_is_not_read_far_beyond_its_values(tmp_path: Path) -> None:
    raw = write_nifti(tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw + bytes(2**12)))
    assert only(READER, tmp_path / "a.nii.gz").shape == (24, 28, 20)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(raw + bytes(2**24)))
    assert refusal(tmp_path / "a.nii.gz") == "the file holds more data than its header declares"


def test_a_flipped_bit_in_a_gzip_file_is_noticed(tmp_path: Path) -> None:
    """Stored blocks decompress whatever they hold: only the checksum at the very end tells."""
    path = write_nifti(tmp_path / "a.nii")
    packed = bytearray(gzip.compress(path.read_bytes(), compresslevel=0))
    packed[1000] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(packed)
    assert refusal(tmp_path / "a.nii.gz") == "not a readable NIfTI file"


@pytest.mark.parametrize("dims", [(32767, 32767, 32767), (1000, 1000, 500)])
def test_absurd_headers_are_refused_before_memory_is_taken(tmp_path: Path, dims: tuple[int, int, int]) -> None:
    path = write_nifti(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    raw[40:56] = np.array([3, *dims, 1, 1, 1, 1], np.int16).tobytes()
    path.write_bytes(raw)
    assert "the header declares" in refusal(path) or "than its header declares" in refusal(path)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    assert "header declares" in refusal(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("slope", [1.0, 0.5])
@pytest.mark.parametrize("dtype", ["int16", "float64", "int64"])
def test_a_large_volume_is_read_some_slices_at_once(
    tmp_path: Path, slope: float, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(-500, 500, (7, 5, 11)).astype(dtype)
    image = nib.Nifti1Image(values, np.diag([-1.0, 1, 2, 1]), dtype=dtype)  # type: ignore[no-untyped-call]
    image.header.set_slope_inter(slope, 3)
    nib.save(image, tmp_path / "a.nii.gz")
    whole = only(READER, tmp_path / "a.nii.gz")
    monkeypatch.setattr(volume_file, "SLAB_VALUES", 7 * 5 * 2)
    found = only(READER, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(found.array, whole.array)
    assert found.array.dtype == whole.array.dtype
