"""The scripts that compare our readers with other programs: what they find equal, and what they would find wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import reader_table, series_volumes
from benchmarks.made_series import made_series
from benchmarks.reader_files import ImageFile
from benchmarks.reader_references import Grid, at_the_same_place, difference
from benchmarks.series_volumes import DIFFERS, EQUAL, PLACES, compared, of_several_images
from medfuncta_dist.scans.readers.reader_registry import find_reader
from tests.unit.scans.archive import NIBABEL, PYDICOM

AFFINE = np.array([[0, -1.5, 0.1, 7], [0.8, 0, 0, -3], [0, 0.1, 2, 5], [0, 0, 0, 1.0]])


def grid() -> Grid:
    return Grid(np.random.default_rng(0).integers(0, 99, (3, 4, 5, 2)), AFFINE)


def turned() -> Grid:
    """The same voxels with their axes in another order, one of them backwards."""
    affine = AFFINE[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += affine[:3, 1] * 2
    affine[:3, 1] *= -1
    return Grid(np.flip(grid().values.transpose(2, 0, 1, 3), 1), affine)


def test_the_same_voxels_in_another_order_are_equal() -> None:
    found = difference(grid(), turned())
    assert found.values == 0
    assert found.mm == pytest.approx(0, abs=1e-12)
    assert (at_the_same_place(turned(), AFFINE).values == grid().values).all()


def test_a_value_a_place_and_a_missing_slice_are_seen() -> None:
    other = turned()
    other.values[1, 1, 1, 0] += 4
    assert difference(grid(), other).values == 4
    moved = np.array([[0, 0, 0, 0.25], *np.zeros((3, 4))])
    assert difference(grid(), replace(turned(), affine=turned().affine + moved)).mm == pytest.approx(0.25)
    with pytest.raises(ValueError, match="voxels"):
        difference(grid(), Grid(grid().values[:2], AFFINE))


def test_nan_is_equal_to_nan_alone() -> None:
    ours = Grid(np.array([np.nan, 1], np.float32).reshape(2, 1, 1, 1), None)
    assert difference(ours, ours).values == 0
    assert difference(ours, Grid(np.nan_to_num(ours.values), None)).values == np.inf


def file(path: Path) -> ImageFile:
    reader = find_reader(None, path.name)
    assert reader is not None
    return ImageFile("pydicom", path.name, path, reader)


@pytest.mark.parametrize(
    "path", [PYDICOM / "MR_small.dcm", PYDICOM / "examples_palette.dcm", NIBABEL / "anatomical.nii"]
)
def test_a_file_that_is_read_is_compared(path: Path) -> None:
    row = reader_table.row_of(file(path))
    assert (row.result, row.values, row.wrong) == ("read", 0, False)


@pytest.mark.parametrize("name", ["rtdose.dcm", "waveform_ecg.dcm"])
def test_a_file_that_is_refused_has_a_reason(name: str) -> None:
    row = reader_table.row_of(file(PYDICOM / name))
    assert (row.result, row.decodable) == ("refused", name == "rtdose.dcm")
    assert row.reason


def test_another_value_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    original = reader_table.reference

    def shifted(*arguments: Any) -> Grid:
        found = original(*arguments)
        return replace(found, values=found.values + 1)

    monkeypatch.setattr(reader_table, "reference", shifted)
    row = reader_table.row_of(file(PYDICOM / "MR_small.dcm"))
    assert (row.values, row.wrong) == (1, True)


def test_made_series_are_where_their_headers_say(tmp_path: Path) -> None:
    for name, paths in made_series(tmp_path):
        [series] = of_several_images(dict.fromkeys(paths, name))
        rows = list(compared(series))
        assert len(rows) == (2 if "echoes" in name else 1)
        for row in rows:
            assert row["shape"], row["note"]
            assert row["verdict"] != DIFFERS
            assert row[PLACES] == "not compared" or row[PLACES] < 1e-3


def test_a_volume_of_another_program_is_judged(tmp_path: Path) -> None:
    """What explains one difference does not explain another."""
    paths = dict(made_series(tmp_path))["axial, from head to feet"]
    [series] = of_several_images(dict.fromkeys(paths, "made"))
    [found] = series_volumes.our_volumes(paths, series_volumes.names_of(series.headers))
    values, affine = np.moveaxis(found.scan.array, 0, -1), found.scan.affine
    same = series_volumes.against(found.scan, {"dcm2niix": [Grid(values, affine)]}, series.headers)
    assert (same["verdict"], same["dcm2niix"]) == (EQUAL, 0)
    for other in (
        Grid(values[:, :, ::-1], affine),
        Grid(values + 1, affine),
        Grid(values, affine @ np.diag([1, 1, 2, 1])),
    ):
        assert series_volumes.against(found.scan, {"dcm2niix": [other]}, series.headers)["verdict"] == DIFFERS
