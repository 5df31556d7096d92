from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medfuncta_dist.config.sections.data_section import Data, Slabs, Slices
from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans.canonical import canonical, slices, split_of, windowed
from medfuncta_dist.scans.scan import Scan, Window
from medfuncta_dist.scans.scan_key import KeyMaker
from tests.unit.scans.archive import declared
from tests.writers import structured

AFFINE = np.array([[2, 0.1, 0, -20], [0, 1.5, 0.2, 10], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def volume(shape: tuple[int, int, int] = (12, 14, 10), dtype: str = "int16") -> Scan:
    array = np.rint(structured(shape) * 200).astype(dtype)[None]
    return Scan(array, (2.0, 1.5, 3.0), AFFINE, "MR", labels=(4,))


def test_canonical_has_the_declared_shape_and_keeps_the_rest() -> None:
    scan = canonical(volume(), declared([8, 8, 8]))
    assert scan.array.shape == (1, 8, 8, 8)
    assert scan.array.dtype == np.int16
    assert scan.array.flags.c_contiguous
    assert scan.window is not None
    assert (scan.modality, scan.labels) == ("MR", (4,))


def test_the_window_is_that_of_the_scan_as_read() -> None:
    spike = volume(dtype="float32")
    spike.array[0, 5, 5, 5] = 10_000
    data = declared([6, 6, 6], intensity={"mode": "minmax"})
    scan = canonical(spike, data)
    assert scan.window == Window(0, 10_000)
    assert scan.array.max() < 10_000  # smoothing took the spike, not the window


def test_a_given_spacing_is_that_of_every_scan_and_its_world_stays() -> None:
    data = declared([8, 8, 8], spacing=[4.0, 3.0, 3.0])
    scans = [canonical(volume(shape), data) for shape in ((12, 14, 10), (20, 9, 31))]
    assert [scan.spacing for scan in scans] == [pytest.approx((4, 3, 3))] * 2
    for scan, shape in zip(scans, ((12, 14, 10), (20, 9, 31)), strict=True):
        assert scan.affine is not None
        middle = (np.array(shape) - 1) / 2
        np.testing.assert_allclose(scan.affine @ [3.5, 3.5, 3.5, 1], AFFINE @ [*middle, 1], atol=1.51)
    assert scans[1].array[0, :, [0, 7]].max() == scans[1].window.low  # 12 mm of 24 are there


def test_what_lies_outside_is_background() -> None:
    data = declared([32, 8], intensity={"mode": "range", "low": -1000.0, "high": 1000.0})
    scan = canonical(Scan(np.full((1, 16, 16), 40, np.int16), (1.0, 1.0), None, "CT"), data)
    assert set(np.unique(scan.array)) == {-1000, 40}


def test_background_below_the_type_is_clipped_to_it() -> None:
    data = declared([32, 8], intensity={"mode": "range", "low": -1000.0, "high": 1000.0})
    scan = canonical(Scan(np.full((1, 16, 16), 40, np.uint8), (1.0, 1.0), None, "CT"), data)
    assert set(np.unique(scan.array)) == {0, 40}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_refuses_the_scan(value: float) -> None:
    scan = volume(dtype="float32")
    scan.array[0, 0, 0, 0] = value
    with pytest.raises(ScanError, match="not finite"):
        canonical(scan, declared([8, 8, 8]))


def test_values_that_are_not_finite_become_background_where_the_run_file_says_so() -> None:
    scan = volume(dtype="float32")
    holes = np.zeros(scan.array.shape, bool)
    holes[0, :3], scan.array[0, 0], scan.array[0, 1], scan.array[0, 2] = True, np.nan, np.inf, -np.inf
    result = windowed(scan, declared([8, 8, 8], non_finite="background"))
    assert result.array.dtype == np.float32
    assert (result.array[holes] == scan.array[~holes].min()).all()
    assert (result.array[~holes] == scan.array[~holes]).all()
    scan.array[...] = np.nan
    with pytest.raises(ScanError, match="no value is finite"):
        windowed(scan, declared([8, 8, 8], non_finite="background"))


@pytest.mark.parametrize("mode", ["auto", "minmax"])
def test_constant_scans_pass(mode: str) -> None:
    scan = Scan(np.full((1, 9, 9), 3, np.int16), (1.0, 1.0), None, "MR")
    result = canonical(scan, declared([12, 4], intensity={"mode": mode}))
    assert result.window == Window(3, 3)
    assert (result.array == 3).all()


def test_colour_becomes_grey_where_one_channel_is_declared() -> None:
    colour = np.stack([np.full((4, 4), v, np.uint8) for v in (200, 100, 50)])
    grey = canonical(Scan(colour, (1.0, 1.0), None, "PX"), declared([4, 4]))
    assert grey.array.tolist() == np.full((1, 4, 4), round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).tolist()
    assert grey.array.dtype == np.uint8
    kept = canonical(Scan(colour, (1.0, 1.0), None, "PX"), declared([4, 4], channels=3))
    assert (kept.array == colour).all()


def test_grey_is_not_made_up_into_colour() -> None:
    with pytest.raises(ScanError, match="expected 3 channels, found 1"):
        canonical(Scan(np.zeros((1, 4, 4), np.uint8), (1.0, 1.0), None, "PX"), declared([4, 4], channels=3))


def test_axes_must_match() -> None:
    with pytest.raises(ScanError, match="expected 2 axes, found 3"):
        canonical(volume(), declared([8, 8]))


def test_a_volume_of_one_slice_is_an_image() -> None:
    scan = canonical(volume((12, 14, 1)), declared([8, 8]))
    assert scan.array.shape == (1, 8, 8)
    assert len(scan.spacing) == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_hold_the_values_and_the_place_of_the_volume(axis: int) -> None:
    whole = windowed(volume(), declared([8, 8], slices={"axis": axis}))
    pieces = list(slices(whole, Slices(axis=axis)))
    assert [index for index, _ in pieces] == list(range(whole.shape[axis]))
    for index, piece in pieces:
        assert piece.slice_index == index
        assert piece.window == whole.window
        i, j = 3, 7
        full = np.insert([i, j], axis, index)
        assert piece.array[0, i, j] == whole.array[0, *full]
        assert piece.affine is not None
        np.testing.assert_allclose(piece.affine @ [i, j, 0, 1], AFFINE @ [*full, 1])
        np.testing.assert_allclose(piece.affine @ [i, j, 1, 1], AFFINE @ [*(full + np.eye(3)[axis]), 1])
        assert piece.spacing == tuple(np.delete(whole.spacing, axis))


def test_a_slice_resampled_still_lies_in_the_volume() -> None:
    data = declared([9, 9], slices={"axis": 1}, aspect="stretch")
    index, piece = list(slices(windowed(volume(), data), Slices(axis=1)))[6]
    scan = canonical(piece, data)
    assert scan.slice_index == index == 6
    assert scan.affine is not None
    np.testing.assert_allclose(scan.affine @ [8, 8, 0, 1], AFFINE @ [11, 6, 9, 1])


def test_slices_without_a_body_are_left_out() -> None:
    array = np.zeros((1, 10, 10, 6), np.int16)
    array[0, :5, :, 2] = 100  # half of slice 2, a tenth of slice 4
    array[0, :1, :, 4] = 100
    whole = windowed(Scan(array, (1.0, 1.0, 1.0), None, "MR"), declared([10, 10], slices={}))
    assert [i for i, _ in slices(whole, Slices(axis=2, min_foreground=0.5))] == [2]
    assert [i for i, _ in slices(whole, Slices(axis=2, min_foreground=0.05))] == [2, 4]
    assert len(list(slices(whole, Slices(axis=2)))) == 6


def test_slices_of_an_image_are_refused() -> None:
    image = Scan(np.zeros((1, 4, 4), np.uint8), (1.0, 1.0), None, "PX", Window(0, 255))
    with pytest.raises(ScanError, match="3 axes"):
        list(slices(image, Slices()))


def split_at(index: int, **slabs: object) -> str:
    return split_of("00" * 32, index, None, declared([8, 8], slices={}, slabs=slabs))


def test_slab_rule_by_hand() -> None:
    letters = "".join(split_at(i, size=2, period=3, gap=1)[1] for i in range(14))
    # slabs of 2, every third held out, one slice of gap on each side: t(r)ain, t(e)st, g(a)p
    assert letters == "rrraeearraeear"


def test_several_splits_take_the_slabs_in_turns() -> None:
    slabs = {"size": 2, "period": 3, "gap": 1, "split": ["val", "test"]}
    letters = "".join(split_at(i, **slabs)[1] for i in range(20))
    assert letters == "rrraaaarraeearraaaar"  # t(r)ain, v(a)l and g(a)p, t(e)st
    assert [i for i in range(20) if split_at(i, **slabs) == "val"] == [4, 5, 16, 17]


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 6), st.integers(0, 200))
def test_no_training_slice_is_closer_to_a_held_out_one_than_the_gap(size: int, period: int, gap: int, i: int) -> None:
    if 2 * gap >= size * (period - 1):
        return
    rule = {"size": size, "period": period, "gap": gap}
    around = {split_at(j, **rule) for j in range(max(0, i - gap), i + gap + 1)}
    if split_at(i, **rule) == "train":
        assert "test" not in around
    if split_at(i, **rule) == "gap":
        assert "test" in around
    held_out = [(i // size) % period == period - 1]
    assert (split_at(i, **rule) == "test") == held_out[0]


def test_the_sources_split_comes_first_then_slabs_then_the_draw() -> None:
    data = declared([8, 8], slices={}, slabs={"size": 4, "period": 2, "gap": 0})
    assert split_of("00" * 32, 5, "val", data) == "val"
    assert split_of("00" * 32, 5, None, data) == "test"
    assert split_of("ff" * 32, 5, None, declared([8, 8], fractions={"train": 1.0})) == "train"


FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def drawn(data: Data, count: int = 4000) -> list[str]:
    keys = KeyMaker(b"s" * 32)
    return [split_of(keys.scan_key("file", f"row/{i}"), None, None, data) for i in range(count)]


def test_draws_follow_the_fractions_and_not_their_order() -> None:
    splits = drawn(declared([8, 8], fractions=FRACTIONS))
    for split, share in FRACTIONS.items():
        assert abs(splits.count(split) / len(splits) - share) < 0.03
    assert splits == drawn(declared([8, 8], fractions=dict(reversed(FRACTIONS.items()))))


@pytest.mark.parametrize("key", ["00" * 32, "ff" * 32])
def test_the_extreme_keys_have_a_split(key: str) -> None:
    third = 1 / 3
    data = declared([8, 8], fractions={"train": third, "a": third, "b": 1 - 2 * third - 1e-9})
    assert split_of(key, None, None, data) in {"a", "train"}


def test_the_default_slabs_are_those_of_the_quickstart() -> None:
    splits = [split_of("00" * 32, i, None, declared([8, 8], slices={}, slabs={})) for i in range(189)]
    assert Slabs() == Slabs(size=16, period=4, gap=2)
    assert [i for i, s in enumerate(splits) if s == "test"] == [*range(48, 64), *range(112, 128), *range(176, 189)]
    assert [i for i, s in enumerate(splits) if s == "gap"] == [46, 47, 64, 65, 110, 111, 128, 129, 174, 175]


def test_orientation_survives_the_way_to_nifti_and_back() -> None:
    scan = canonical(volume(), declared([8, 8, 8]))
    assert nib.aff2axcodes(scan.affine) == ("R", "A", "S")
