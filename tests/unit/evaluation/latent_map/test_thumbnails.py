from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.evaluation.latent_map.thumbnails import LONGEST_SIDE, MOST_VALUES, thumbnail_grid, thumbnails
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.report_style import pictures


def network(coords: int, channels: int = 1) -> SharedNetwork:
    spec = SirenSpec.linear(coords=coords, channels=channels, layers=3, hidden=8, latent=6, omega_first=5, omega_last=9)
    return SharedNetwork(spec, init_params(spec, torch.Generator().manual_seed(0)), {}, {}, "0" * 64, "test", {})


def some_latents(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)


@pytest.mark.parametrize("packed", [(28, 28), (512, 512), (512, 64), (4000, 4), (187,), (96, 96, 96)])
@pytest.mark.parametrize("channels", [1, 3])
def test_thumbnails_are_small_together_and_keep_their_proportions(packed: tuple[int, ...], channels: int):
    grid = thumbnail_grid(packed, channels, 1000)
    shown = grid[:2]
    assert 1000 * math.prod(shown) * channels <= MOST_VALUES or min(shown) == 2
    assert max(shown) <= LONGEST_SIDE
    assert len(grid) == len(packed)
    if len(packed) > 1 and min(shown) > 8:
        assert shown[0] / shown[1] == pytest.approx(packed[0] / packed[1], rel=0.15)


def test_a_small_scan_is_decoded_as_packed():
    assert thumbnail_grid((28, 28), 1, 1000) == (28, 28)


def test_pictures_are_those_that_latents_decode_to():
    latents, of = some_latents(), network(2)
    decoded = reconstruct(of, latents, (12, 10))
    made = thumbnails(of, latents, (12, 10), [False, True, False])
    assert np.array_equal(made[0], pictures.grey(decoded[0, 0]))
    assert np.array_equal(made[1], np.rot90(pictures.grey(decoded[1, 0])))


def test_a_volume_is_its_middle_axial_slice_upright():
    latents, of = some_latents(), network(3)
    whole = reconstruct(of, latents, (6, 5, 7))
    (made, *_) = thumbnails(of, latents, thumbnail_grid((6, 5, 7), 1, 3), [False] * 3)
    assert np.abs(made.astype(int) - np.rot90(pictures.grey(whole[0, 0, :, :, 3])).astype(int)).max() <= 1


def test_colour_stays_colour_and_a_signal_is_a_line():
    assert thumbnails(network(2, 3), some_latents(), (8, 8), [False] * 3)[0].shape == (8, 8, 3)
    assert thumbnails(network(1), some_latents(), (20,), [False] * 3)[0].shape == (20,)
