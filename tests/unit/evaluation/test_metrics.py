from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medfuncta_dist.evaluation import metrics
from tests.writers import structured

SHAPES = [(1, 187), (1, 28, 28), (3, 20, 24), (1, 12, 10, 8)]


def pair(shape: tuple[int, ...], noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    original = np.stack([structured(shape[1:], seed) for seed in range(shape[0])])
    noisy = original + noise * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return original, noisy


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_is_what_a_library_says_of_the_clamped_reconstruction(shape):
    original, noisy = pair(shape)
    expected = peak_signal_noise_ratio(original.astype(float), np.clip(noisy, 0, 1).astype(float), data_range=1)
    assert metrics.score(original, noisy).psnr == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_perfect_reconstruction_is_capped_and_alike(shape):
    original, _ = pair(shape)
    assert metrics.score(original, original) == metrics.Score(0.0, 100.0, pytest.approx(1.0))


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_falls_as_noise_grows(shape):
    values = [metrics.score(*pair(shape, noise)).ssim for noise in (0.01, 0.05, 0.2)]
    assert 1 > values[0] > values[1] > values[2]


def test_ssim_of_one_dimension_by_hand():
    rng = np.random.default_rng(1)
    one, two = rng.random((2, 1, 7))
    means, covariance = (one.mean(), two.mean()), np.cov(one[0], two[0])
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * covariance[0, 1] + c2) / (covariance[0, 0] + covariance[1, 1] + c2)
    luminance = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
    assert metrics.score(one, two).ssim == pytest.approx(structure * luminance)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 48, 48), (2, 5, 9), (1, 3)])
def test_many_scans_at_once_have_the_bits_of_each_alone_and_of_the_library(shape):
    numbers = np.random.default_rng(3)
    originals = numbers.random((11, *shape), dtype=np.float32)
    noisy = originals + 0.1 * numbers.normal(size=originals.shape).astype(np.float32)
    found = metrics.scores(originals, noisy)
    assert found == [metrics.score(*one) for one in zip(originals, noisy, strict=True)]
    for one, original, reconstruction in zip(found, originals, np.clip(noisy, 0, 1), strict=True):
        expected = structural_similarity(
            original.astype(np.float64),
            reconstruction.astype(np.float64),
            data_range=1.0,
            win_size=metrics.ssim_window(shape[1:]),
            channel_axis=0,
        )
        assert one.ssim == expected
        assert one.mse == np.square(original.astype(np.float64) - reconstruction).mean()


def test_scans_are_scored_several_at_a_time_in_bounded_memory(monkeypatch):
    sizes, filtered = [], metrics.uniform_filter
    monkeypatch.setattr(metrics, "uniform_filter", lambda x, size: (sizes.append(len(x)), filtered(x, size))[1])
    originals = np.random.default_rng(4).random((100, 1, 32, 32), dtype=np.float32)
    assert len(metrics.scores(originals, originals)) == 100
    assert sizes == [32] * 15 + [4] * 5, "five times per group"
    assert metrics.scores(originals[:0], originals[:0]) == []


@pytest.mark.parametrize(("shape", "window"), [((187,), 7), ((28, 6), 5), ((5, 5, 3), 3), ((2, 9), 1)])
def test_the_window_is_odd_and_fits(shape, window):
    assert metrics.ssim_window(shape) == window


def test_ssim_of_a_two_point_axis_is_not_made_up():
    original, noisy = pair((1, 2, 9))
    assert math.isnan(metrics.score(original, noisy).ssim)


@given(st.lists(st.floats(-50, 100) | st.just(math.nan), max_size=30))
def test_spread_leaves_out_what_is_not_defined(values):
    finite = [v for v in values if not math.isnan(v)]
    found = metrics.spread(values)
    assert (found is None) == (not finite)
    if found is not None:
        assert found.scans == len(finite)
        assert (found.lowest, found.highest) == (min(finite), max(finite))
        assert found.mean == pytest.approx(np.mean(finite))
        assert found.std == pytest.approx(np.std(finite), abs=1e-9)


def test_groups_come_in_natural_order():
    groups = metrics.by_group(["10", "9", "a", "9"], {"psnr": [1.0, 2.0, 3.0, 4.0]})
    assert list(groups) == ["9", "10", "a"]
    assert groups["9"]["psnr"] == metrics.Spread(2, 3.0, 1.0, 3.0, 2.0, 4.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_psnr_inside_a_mask_is_that_of_its_points_alone(shape):
    original, noisy = pair(shape)
    mask = (np.random.default_rng(1).random(shape[1:]) > 0.7).astype(np.uint8) * 3
    mean = np.mean([(o - n) ** 2 for o, n in zip(original[:, mask > 0], noisy.clip(0, 1)[:, mask > 0], strict=True)])
    assert metrics.masked_psnr(original, noisy, mask) == pytest.approx(-10 * math.log10(mean), rel=1e-5)
    assert metrics.masked_psnr(original, noisy, np.ones_like(mask)) == pytest.approx(
        metrics.score(original, noisy).psnr
    )
    assert math.isnan(metrics.masked_psnr(original, noisy, np.zeros_like(mask)))
    assert math.isnan(metrics.masked_psnr(original, noisy, None))
