from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from medfuncta_dist.neighbours import latent_metric
from medfuncta_dist.neighbours.latent_metric import (
    PLAIN,
    LatentMetric,
    image_metric,
    nearest_distances,
    whitened_metric,
)


def drawn(scans: int, numbers: int = 6, seed: int = 0) -> np.ndarray:
    """Latents far from the origin, whose numbers vary unequally and together."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(scans, numbers)) * np.geomspace(10, 0.1, numbers)
    return (mixed @ np.linalg.qr(random.normal(size=(numbers, numbers)))[0] + 50).astype(np.float32)


def test_plain_is_the_distance_of_the_numbers() -> None:
    latents = drawn(30)
    assert PLAIN.coordinates(latents) is latents
    assert nearest_distances(latents[:10], latents[10:]) == pytest.approx(cdist(latents[:10], latents[10:]).min(1))


def test_whitened_is_the_mahalanobis_distance_where_nothing_is_added() -> None:
    latents = drawn(500)
    inverse = np.linalg.inv(np.cov(latents.T.astype(float), bias=True))
    expected = cdist(latents[:20], latents[20:], "mahalanobis", VI=inverse).min(1)
    assert nearest_distances(latents[:20], latents[20:], whitened_metric(latents, 0)) == pytest.approx(
        expected, rel=1e-3
    )


def test_what_is_added_keeps_directions_without_variance_small() -> None:
    latents = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32) * [1, 1e-4]
    raised, bare = (whitened_metric(latents, floor).map for floor in (0.1, 0))
    assert raised is not None
    assert bare is not None
    assert np.abs(bare).max() > 1e3 > 10 > np.abs(raised).max()


def test_one_scan_whose_latents_never_vary_is_no_error() -> None:
    assert np.isfinite(whitened_metric(np.zeros((1, 3), np.float32)).coordinates(np.ones((2, 3), np.float32))).all()


def test_image_distances_are_those_of_the_given_matrix() -> None:
    latents, root = drawn(40), np.random.default_rng(1).normal(size=(6, 6))
    found = nearest_distances(latents[:10], latents[10:], image_metric(root @ root.T))
    assert found == pytest.approx(cdist(latents[:10] @ root, latents[10:] @ root).min(1), rel=1e-3)


def test_directions_that_no_image_shows_are_left_out() -> None:
    metric = image_metric(np.diag([4.0, 1.0, 1e-9, 0.0]))
    assert metric.map is not None
    assert metric.map.shape == (4, 2)
    assert image_metric(np.eye(4)).map is None


@pytest.mark.parametrize("block", [1, 64, 2**24])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    latents = drawn(70)
    expected = nearest_distances(latents[:40], latents[40:])
    monkeypatch.setattr(latent_metric, "BLOCK_NUMBERS", block)
    assert nearest_distances(latents[:40], latents[40:]) == pytest.approx(expected)


def test_a_copy_is_at_distance_zero_however_far_from_the_origin() -> None:
    latents = drawn(50, 64) + 1e4
    assert nearest_distances(latents[:5], latents).max() == 0
    assert nearest_distances(latents[:0], latents).shape == (0,)


def test_without_references_there_is_no_distance() -> None:
    with pytest.raises(ValueError, match="no reference"):
        nearest_distances(drawn(2), drawn(0))


def test_a_metric_gives_float32_whatever_comes() -> None:
    assert LatentMetric("plain").coordinates(np.ones((2, 3), np.float16)).dtype == np.float32
