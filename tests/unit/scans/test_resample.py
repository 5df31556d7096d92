from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medfuncta_dist.errors import ScanError
from medfuncta_dist.scans import resample as module
from medfuncta_dist.scans.resample import Grid, cast, nearest, resample, spaced_grid, target_grid, whole_grid

axes = st.integers(1, 3)
lengths = st.integers(2, 12)
spacings = st.floats(0.1, 10)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], list[float], list[int]]:
    """Shape and spacing of a scan, and a target shape."""
    n = draw(axes)
    pick = lambda s: draw(st.lists(s, min_size=n, max_size=n))  # noqa: E731
    return pick(lengths), pick(spacings), pick(lengths)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Invertible voxel -> world maps, sheared and mirrored ones among them."""
    affine = np.eye(4)
    affine[:3] = np.array(draw(st.lists(st.floats(-5, 5), min_size=12, max_size=12))).reshape(3, 4)
    with np.errstate(divide="ignore"):
        assume(abs(np.linalg.det(affine[:3, :3])) > 0.1)
    return affine


def world(affine: np.ndarray, index: np.ndarray) -> np.ndarray:
    """World coordinates of voxels (point, axis)."""
    padded = np.zeros((len(index), 4))
    padded[:, : index.shape[1]], padded[:, 3] = index, 1
    return (padded @ affine.T)[:, :3]


def corners(shape: list[int]) -> np.ndarray:
    return np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), -1).reshape(-1, len(shape)).astype(float)


@given(problems(), affines())
def test_stretch_keeps_every_corner_of_the_field_of_view(problem: tuple, affine: np.ndarray) -> None:
    shape, spacing, target = problem
    grid = target_grid(shape, spacing, target, "stretch")
    np.testing.assert_allclose(world(grid.affine(affine), corners(target)), world(affine, corners(shape)), atol=1e-9)
    extent = [s * (m - 1) for s, m in zip(grid.spacing(spacing), target, strict=True)]
    np.testing.assert_allclose(extent, [s * (n - 1) for s, n in zip(spacing, shape, strict=True)])


@given(problems())
def test_spacing_is_what_the_affine_says(problem: tuple) -> None:
    shape, spacing, target = problem
    affine = np.diag([*spacing, 1.0, 1.0, 1.0][:4])
    for aspect in ("stretch", "pad", "crop"):
        grid = target_grid(shape, spacing, target, aspect)
        columns = np.linalg.norm(grid.affine(affine)[:3, : len(spacing)], axis=0)
        np.testing.assert_allclose(columns, grid.spacing(spacing))


@given(problems())
def test_pad_holds_all_of_the_scan_and_crop_nothing_else(problem: tuple) -> None:
    shape, spacing, target = problem
    pad, crop = (target_grid(shape, spacing, target, aspect) for aspect in ("pad", "crop"))
    for axis, (n, m) in enumerate(zip(shape, target, strict=True)):
        first, last = pad.offset[axis], pad.offset[axis] + pad.scale[axis] * (m - 1)
        assert first <= 1e-6
        assert last >= n - 1 - 1e-6
        first, last = crop.offset[axis], crop.offset[axis] + crop.scale[axis] * (m - 1)
        assert first >= -1e-6
        assert last <= n - 1 + 1e-6
    for grid in (pad, crop):
        np.testing.assert_allclose(grid.spacing(spacing), grid.spacing(spacing)[0])


@given(problems(), affines(), st.sampled_from(["stretch", "pad", "crop"]))
@settings(max_examples=60)
def test_a_field_linear_in_the_world_is_the_same_field_after_resampling(
    problem: tuple, affine: np.ndarray, aspect: str
) -> None:
    """Values are a function of the place in the world, so they tell whether grid and affine agree."""
    shape, spacing, target = problem
    grid = target_grid(shape, spacing, target, aspect)
    assume(max(grid.scale) <= 1)  # smoothing before shrinking bends a ramp at its ends

    def field(points: np.ndarray) -> np.ndarray:
        return points @ np.array([0.3, -0.7, 0.2]) + 1

    def at(n: list[int] | tuple[int, ...], map_: np.ndarray) -> np.ndarray:
        return field(world(map_, np.indices(n).reshape(len(n), -1).T.astype(float))).reshape(1, *n)

    result = resample(at(shape, affine).astype(np.float32), grid, outside=np.nan)
    inside = np.isfinite(result)
    assert inside.any()
    np.testing.assert_allclose(result[inside], at(target, grid.affine(affine))[inside], atol=1e-4)


@pytest.mark.parametrize("aspect", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("target", [[20, 24, 18], [60, 55, 40], [31, 30, 33]])
def test_a_landmark_stays_where_it_is_in_the_world(aspect: str, target: list[int]) -> None:
    shape, spacing = [40, 44, 36], [1.0, 1.2, 0.9]
    affine = np.array([[0, 1.2, 0, 3], [-1, 0, 0, 50], [0, 0, 0.9, -7], [0, 0, 0, 1.0]])
    index = np.indices(shape)
    centre = np.array([22.0, 19.0, 16.0])[:, None, None, None]
    blob = np.exp(-np.sum((index - centre) ** 2, axis=0) / 18).astype(np.float32)
    grid = target_grid(shape, spacing, target, aspect)
    result = resample(blob[None], grid, outside=0)[0].astype(np.float64)
    found = np.array([(result * axis).sum() for axis in np.indices(target)]) / result.sum()
    # The blob is cut nowhere, so its centre of mass is the landmark.
    np.testing.assert_allclose(world(grid.affine(affine), found[None]), world(affine, centre.reshape(1, 3)), atol=0.12)


def test_same_shape_is_the_same_array() -> None:
    array = np.arange(28 * 28, dtype=np.uint16).reshape(1, 28, 28)
    for aspect in ("stretch", "pad", "crop"):
        assert resample(array, target_grid([28, 28], [0.3, 0.3], [28, 28], aspect), 0) is array


def test_padding_alone_copies_every_value() -> None:
    array = np.random.default_rng(0).integers(0, 2**16, (1, 28, 21)).astype(np.uint16)
    result = resample(array, target_grid([28, 21], [0.7, 0.7], [28, 28], "pad"), outside=5)
    [start] = [s for s in range(8) if (result[0, :, s : s + 21] == array[0]).all()]
    assert start in (3, 4)
    assert (np.delete(result[0], range(start, start + 21), axis=1) == 5).all()


def test_pad_keeps_the_aspect_in_millimetres_not_in_voxels() -> None:
    grid = target_grid([10, 19], [2.0, 1.0], [19, 19], "pad")  # 18 mm x 18 mm
    assert grid == Grid((19, 19), (0.5, 1.0), (0.0, 0.0))


@given(problems(), st.sampled_from(["stretch", "crop"]))
def test_rounding_takes_no_point_out_of_the_field_of_view(problem: tuple, aspect: str) -> None:
    shape, spacing, target = problem
    result = resample(np.ones((1, *shape), np.float32), target_grid(shape, spacing, target, aspect), outside=0)
    np.testing.assert_allclose(result, 1, atol=1e-6)


def test_the_last_voxel_is_kept_where_rounding_puts_its_point_just_outside() -> None:
    grid = target_grid([4], [0.7], [14], "pad")
    points = grid.offset[0] + grid.scale[0] * np.arange(14)
    assert points.min() < 0 or points.max() > 3  # by 1e-16: the case that this test is about
    assert (resample(np.ones((1, 4), np.float32), grid, outside=0) > 0.999).all()


def test_shrinking_is_smoothed_against_aliasing() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), 64)[None]  # the finest pattern there is
    result = resample(stripes, target_grid([128], [1.0], [32], "stretch"), 0)
    assert np.ptp(result[0, 4:-4].astype(int)) < 10
    assert abs(result[0, 4:-4].mean() - 127.5) < 5


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32"])
def test_stored_type_is_kept_and_no_value_leaves_the_range(dtype: str) -> None:
    top = 2**31 - 2 if dtype in ("int32", "uint32") else 250
    array = np.random.default_rng(1).integers(top - 200, top, (2, 9, 7)).astype(dtype)
    result = resample(array, target_grid([9, 7], [1.0, 1.0], [16, 5], "stretch"), 0)
    assert result.dtype == array.dtype
    assert result.shape == (2, 16, 5)
    assert array.min() <= result.min() <= result.max() <= array.max()


def test_integers_are_rounded_to_the_nearest_and_clipped() -> None:
    values = np.array([-3.0, 0.4, 0.6, 254.7, 300.0])
    assert cast(values, np.dtype(np.uint8)).tolist() == [0, 0, 1, 255, 255]


def test_axis_of_length_1_is_refused() -> None:
    with pytest.raises(ScanError, match="length 1"):
        target_grid([1, 9], [1.0, 1.0], [4, 4], "pad")


@given(problems(), st.data())
def test_a_given_spacing_is_exact_and_centred(problem: tuple, data: st.DataObject) -> None:
    shape, spacing, target = problem
    step = [data.draw(st.floats(0.05, 1)) * s * (n - 1) for n, s in zip(shape, spacing, strict=True)]
    grid = spaced_grid(shape, spacing, target, step)
    np.testing.assert_allclose(grid.spacing(spacing), step)
    assert grid.shape == tuple(target)
    for n, m, scale, offset in zip(shape, target, grid.scale, grid.offset, strict=True):
        centre = offset + scale * (m - 1) / 2
        assert abs(centre - (n - 1) / 2) <= (0.5 if scale == 1 else 1e-9)


def test_a_scan_smaller_than_one_step_is_refused() -> None:
    spaced_grid([9, 9], [1, 1], [4, 4], [8, 8])
    with pytest.raises(ScanError, match=r"smaller than one step of data\.spacing"):
        spaced_grid([9, 8], [1, 1], [4, 4], [8, 8])


def test_labels_are_those_of_the_nearest_points_and_none_outside() -> None:
    labels = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint8)
    assert nearest(labels, Grid((2, 2), (1, 2), (0, 0.4))).tolist() == [[1, 3], [5, 7]]
    assert nearest(labels, Grid((3, 2), (1, 3), (-1, 0))).tolist() == [[0, 0], [1, 4], [5, 8]]
    assert labels[0, 0] == 1


@given(st.data())
def test_a_grid_over_a_whole_scan_ends_less_than_half_a_step_outside(data: st.DataObject) -> None:
    shape, spacing, _ = data.draw(problems())
    step = [s * data.draw(st.floats(0.2, 4)) for s in spacing]
    grid = whole_grid(shape, spacing, step)
    for n, m, scale, offset in zip(shape, grid.shape, grid.scale, grid.offset, strict=True):
        before, after = -offset, offset + scale * (m - 1) - (n - 1)
        assert before == pytest.approx(after, abs=1e-6)
        assert -1e-5 <= before < scale / 2 + 1e-6
    assert grid.spacing(spacing) == pytest.approx(step)


def test_a_scan_of_the_spacing_asked_for_is_not_resampled() -> None:
    array = np.arange(60, dtype=np.int16).reshape(1, 3, 4, 5)
    grid = whole_grid((3, 4, 5), (0.7, 1.0, 3.3), (0.7, 1.0, 3.3))
    assert resample(array, grid, outside=0) is array


def test_points_of_such_a_grid_beyond_the_scan_have_the_value_of_its_edge() -> None:
    array, grid = np.full((1, 8, 8), 7, np.int16), whole_grid((8, 8), (1.0, 1.0), (3.0, 0.8))
    assert (resample(array, grid, outside=-1000) == 7).all()
    assert (nearest(array[0].astype(np.uint8), grid) == 7).all()


def test_too_many_points_are_refused() -> None:
    with pytest.raises(ScanError, match="more than"):
        whole_grid((500, 500, 500), (1.0,) * 3, (0.1,) * 3)
    assert whole_grid((500, 500, 500), (1.0,) * 3, (0.7,) * 3, channels=1).shape == (714,) * 3
    with pytest.raises(ScanError, match="more than"):
        whole_grid((500, 500, 500), (1.0,) * 3, (0.7,) * 3, channels=3)


@pytest.mark.parametrize("step", [0.6, 1.7, 3.1])
@pytest.mark.parametrize("dtype", ["int16", "float32", "int32"])
def test_slab_by_slab_is_the_same_as_at_once(step: float, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).integers(-900, 900, (2, 41, 12, 9)).astype(dtype)
    grid = whole_grid(array.shape[1:], (1.0,) * 3, (step, 1.2, 0.8))
    whole = resample(array, grid, outside=0)
    monkeypatch.setattr(module, "SLAB_VALUES", 2 * 12 * 9 * 5)
    np.testing.assert_allclose(resample(array, grid, outside=0), whole, rtol=1e-4, atol=1)
    monkeypatch.undo()
    plain = Grid(grid.shape, grid.scale, grid.offset)
    inside = np.s_[:, 1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(resample(array, plain, outside=0)[inside], whole[inside], rtol=1e-4, atol=1)
