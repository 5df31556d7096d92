from __future__ import annotations

import numpy as np
import pytest

from medfuncta_dist.report_style import pictures


def test_an_upright_slice_has_right_to_the_right_and_up_above():
    values = np.zeros((1, 4, 3))
    values[0, 3, 2] = 1.0  # rightmost and uppermost
    assert pictures.plane(values, upright=True)[0, 3] == 1
    assert pictures.plane(values, upright=False)[3, 2] == 1


def test_a_volume_is_shown_by_its_three_middle_slices_upright():
    values = np.zeros((1, 4, 6, 8))
    values[0, :, :, 4] += 0.25
    values[0, :, 3, :] += 0.25
    values[0, 2, :, :] += 0.25
    shown = pictures.plane(values, upright=False)
    assert shown.shape == (8, 4 + 4 + 6 + 2 * pictures.GAP)
    axial, coronal, sagittal = shown[1:7, :4], shown[:, 6:10], shown[:, 12:]
    assert np.array_equal(axial, np.rot90(values[0, :, :, 4]))
    assert np.array_equal(coronal, np.rot90(values[0, :, 3, :]))
    assert np.array_equal(sagittal, np.rot90(values[0, 2]))


def test_colour_stays_colour_and_other_channels_are_shown_by_the_first():
    assert pictures.plane(np.zeros((3, 4, 5)), False).shape == (4, 5, 3)
    assert pictures.plane(np.zeros((3, 4, 5, 6)), False).shape[2] == 3
    assert pictures.plane(np.arange(40.0).reshape(2, 4, 5), False).max() == 19


@pytest.mark.parametrize(("top", "scale"), [(0.0, 0.05), (0.05, 0.05), (0.051, 0.1), (0.32, 0.35), (1.0, 1.0)])
def test_errors_share_one_round_scale(top, scale):
    assert pictures.error_scale([np.zeros(9), np.full(9, top)]) == pytest.approx(scale)


def test_a_larger_error_is_a_brighter_colour():
    heat = pictures.heat(np.array([[0.0, 0.1, 0.2, 5.0]]), 0.2).astype(int).sum(axis=-1)[0]
    assert heat[0] < heat[1] < heat[2] == heat[3]
