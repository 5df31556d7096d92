"""Augmentation: the same on every machine and at every start, and nothing but what the run file asks for."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from medfuncta_dist.config.sections.train_section import Augment
from medfuncta_dist.streaming import augment
from medfuncta_dist.streaming.augment import augmented, resampled

SHAPES = [(2, 37), (1, 12, 17), (3, 6, 9, 7)]
"""Channels, and one to three axes."""
ALL = {"affine": 0.1, "shift": 0.1, "gain": 0.2, "offset": 0.1}
KEYS = [f"{n:064x}" for n in range(400)]


def scan(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).random(shape, np.float32)


def change(values: npt.NDArray[np.float32], key: str = KEYS[0], epoch: int = 0, seed: int = 0, **settings: object):
    return augmented(values, Augment.model_validate(settings), seed=seed, epoch=epoch, key=key)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_amounts_values_are_the_same_to_the_bit(shape):
    values = scan(shape)
    assert change(values).tobytes() == values.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_scan_changes_alike_and_any_other_otherwise(shape):
    values = scan(shape)
    before, settings = values.copy(), ALL | {"flip": [0]}
    first = change(values, **settings)
    assert first.tobytes() == change(values, **settings).tobytes()
    assert values.tobytes() == before.tobytes()
    assert (first.shape, first.dtype) == (values.shape, np.float32)
    assert 0 <= first.min() <= first.max() <= 1
    others = [
        change(values, seed=1, **settings),
        change(values, epoch=1, **settings),
        change(values, KEYS[1], **settings),
    ]
    assert len({out.tobytes() for out in [values, first, *others]}) == 5


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 37), "f2d97ff8b2716c01963d73ee62a542a44c61859821a5d559cc0e271705eeca0f"),
        ((1, 12, 17), "9bfffbc578ffdbde7d09fbbc594a9d12bc8e6a1a5b06f383ebb71905f29ece4a"),
        ((3, 6, 9, 7), "36c364be06e8089c52e2bf3ff5fb260c93bbfc4f706a00cef86021622d4c2787"),
    ],
)
def test_values_are_the_same_in_every_version_and_on_every_machine(shape, expected):
    values = (np.arange(math.prod(shape)) * 37 % 101 / 100).astype(np.float32).reshape(shape)
    result = change(values, "a" * 64, epoch=2, seed=7, flip=[0], **ALL)
    assert hashlib.sha256(result.astype("<f4").tobytes()).hexdigest() == expected


def test_only_listed_axes_are_mirrored_each_half_of_the_time():
    values = scan((2, 3, 4, 5))
    mirrored = {(a, b): np.flip(values, [1] * a + [3] * b).tobytes() for a in (0, 1) for b in (0, 1)}
    found = [change(values, key, flip=[2, 0]).tobytes() for key in KEYS]
    counts = [found.count(expected) for expected in mirrored.values()]
    assert sum(counts) == len(KEYS)
    assert all(70 < count < 130 for count in counts)  # 100 expected, standard deviation 8.7


@pytest.mark.parametrize("shape", SHAPES)
def test_resampling_is_linear_interpolation_with_edges_continued(shape):
    values, axes = scan(shape), len(shape) - 1
    random = np.random.default_rng(axes)
    matrix, shift = np.eye(axes) + random.uniform(-0.3, 0.3, (axes, axes)), random.uniform(-0.3, 0.3, axes)
    ends = np.array(shape[1:])[:, None] - 1
    places = np.stack(np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in shape[1:]), indexing="ij")).reshape(axes, -1)
    read = (matrix @ places + shift[:, None] + 0.5) * ends
    expected = [ndimage.map_coordinates(channel, read, order=1, mode="nearest") for channel in values.astype(float)]
    assert np.abs(resampled(values, matrix, shift) - np.reshape(expected, shape)).max() < 1e-5


def test_known_maps_move_values_where_they_say():
    values = scan((2, 9, 9))
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(resampled(values, quarter, np.zeros(2)), np.rot90(values, axes=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(resampled(values, -np.eye(2), np.zeros(2)), np.flip(values, (1, 2)), atol=1e-6)
    moved = resampled(values, np.eye(2), np.array([0.125, 0.0]))  # an eighth of nine points' extent: one point
    np.testing.assert_allclose(moved, values[:, [1, 2, 3, 4, 5, 6, 7, 8, 8]], atol=1e-6)


@pytest.mark.parametrize("points", [1, 50, 10**9])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_size_of_blocks_changes_no_bit(shape, points, monkeypatch):
    values = scan(shape)
    expected = change(values, **ALL).tobytes()
    monkeypatch.setattr(augment, "BLOCK", points)
    assert change(values, **ALL).tobytes() == expected


def test_amounts_are_the_largest_changes():
    ramp = np.linspace(0.25, 0.75, 101, dtype=np.float32)[None]
    flat = np.full((1, 5), 0.5, np.float32)
    slopes = [np.diff(change(ramp, key, affine=0.2)[0])[50] / 0.005 for key in KEYS]
    middles = [(change(ramp, key, shift=0.2)[0, 50] - 0.5) / 0.5 for key in KEYS]
    gains = [change(flat, key, gain=0.2)[0, 0] / 0.5 for key in KEYS]
    offsets = [change(flat, key, offset=0.2)[0, 0] - 0.5 for key in KEYS]
    for found, centre in ((slopes, 1), (middles, 0), (gains, 1), (offsets, 0)):
        assert min(found) == pytest.approx(centre - 0.2, abs=0.01)
        assert max(found) == pytest.approx(centre + 0.2, abs=0.01)
        assert np.mean(found) == pytest.approx(centre, abs=0.02)


def test_values_stay_in_range():
    assert max(change(scan((1, 99)), key, gain=0.5, offset=0.5).max() for key in KEYS) == 1
    assert min(change(scan((1, 99)), key, gain=0.5, offset=0.5).min() for key in KEYS) == 0


def test_one_change_less_leaves_the_others_as_they_are():
    values, settings = scan((1, 8, 8)), {"flip": [0, 1], "affine": 0.1, "shift": 0.1}
    together = change(values, **settings)
    flipped = change(values, flip=[0, 1])
    np.testing.assert_array_equal(change(flipped, affine=0.1, shift=0.1), together)
