"""A region of a decoded scan is that region, and nothing else is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medfuncta_dist.errors import MedfunctaError, RunFileError
from medfuncta_dist.fields import shared_network
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import init_params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latent_table import decoded_values
from medfuncta_dist.latent_table.decoded_values import decode_latents

SPEC = SirenSpec.linear(coords=3, channels=2, layers=3, hidden=8, latent=4, omega_first=5, omega_last=9)
NETWORK = SharedNetwork(SPEC, init_params(SPEC, torch.Generator().manual_seed(1)), {}, {}, "", "")
LATENTS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
SHAPE = (6, 9, 7)
WHOLE = decode_latents(NETWORK, LATENTS, SHAPE)


def axis(n: int) -> st.SearchStrategy:
    ends = st.integers(0, n - 1).flatmap(lambda a: st.tuples(st.just(a), st.integers(a + 1, n)))
    stepped = st.tuples(ends, st.integers(1, 3)).map(lambda x: slice(*x[0], x[1]))
    return st.none() | ends | stepped | st.integers(1, n).map(lambda k: slice(-k, None))


@given(st.tuples(*map(axis, SHAPE)))
@settings(max_examples=30)
def test_a_region_has_the_values_of_the_whole(region):
    parts = tuple(slice(None) if p is None else p if isinstance(p, slice) else slice(*p) for p in region)
    found = decode_latents(NETWORK, LATENTS, SHAPE, region)
    assert found.shape == WHOLE[(slice(None), slice(None), *parts)].shape
    assert np.allclose(found, WHOLE[(slice(None), slice(None), *parts)], atol=1e-6)


def test_only_its_points_are_computed(monkeypatch):
    computed = []
    original = shared_network.field
    monkeypatch.setattr(shared_network, "field", lambda s, p, x, z: computed.append(len(x)) or original(s, p, x, z))
    decode_latents(NETWORK, LATENTS[:1], (200, 200, 200), [(0, 2), (5, 6), slice(10, 20, 5)])
    assert computed == [4]


def test_groups_do_not_change_a_scan(monkeypatch):
    monkeypatch.setattr(decoded_values, "GROUP_VALUES", 2 * 2 * 6 * 9 * 7)
    assert np.array_equal(decode_latents(NETWORK, LATENTS, SHAPE), WHOLE)


@pytest.mark.parametrize(
    "region",
    [
        [(0, 2)],
        [(0, 2)] * 4,
        [(3, 3), None, None],
        [(5, 2), None, None],
        [(0, 7), None, None],
        [slice(None, None, -1), None, None],
        [(-9, 2), None, None],
    ],
)
def test_a_region_that_does_not_fit_is_refused(region):
    with pytest.raises(RunFileError) as caught:
        decode_latents(NETWORK, LATENTS, SHAPE, region)
    assert caught.value.where == "region"


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (10_000, 10_000, 10_000)])
def test_a_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(RunFileError):
        decode_latents(NETWORK, LATENTS, shape)


def test_a_large_grid_may_have_a_small_region():
    region = [(0, 1), (0, 1), (0, 1)]
    assert decode_latents(NETWORK, LATENTS, (3000, 3000, 3000), region).shape == (5, 2, 1, 1, 1)
    assert torch.equal(grid((3, 3), region=[(1, 2), None]), grid((3, 3))[3:6])


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(MedfunctaError, match="GPU"):
        decode_latents(NETWORK, LATENTS, SHAPE, device="cuda")
