from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medfuncta_dist.evaluation.decode import reconstruct
from medfuncta_dist.fields.basis import MAP, features
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import field
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.latents import image_curvature as module
from medfuncta_dist.latents.image_curvature import image_curvature
from medfuncta_dist.meta.closed_form.principal_latents import Orthonormal
from medfuncta_dist.neighbours.latent_metric import image_metric, nearest_distances
from tests.kinds import BY_KIND
from tests.unit.latents.fitted import LATENT, network, packed, run_file

SHAPE = (12, 12)


def made(folder: Path, kind: str) -> SharedNetwork:
    run = run_file(folder, kind=kind)
    packed(run, folder)
    return network(run)


def drawn(scans: int, size: float) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(scans, LATENT), scale=size).astype(np.float32)


@BY_KIND
def test_it_is_the_mean_of_autograds_jacobian_squared(tmp_path: Path, kind: str) -> None:
    net, latents = made(tmp_path, kind), drawn(3, 0.1)
    expected = np.zeros((LATENT, LATENT))
    for latent in torch.from_numpy(latents):
        rows = torch.func.jacrev(lambda one: field(net.spec, net.params, grid(SHAPE), one[None]).flatten())(latent)
        expected += (rows.double().T @ rows.double()).numpy() / (len(rows) * len(latents))
    assert image_curvature(net, latents, SHAPE) == pytest.approx(expected, rel=1e-3, abs=1e-5 * expected.max())


@BY_KIND
def test_distances_are_those_of_the_decoded_images(tmp_path: Path, kind: str) -> None:
    """Exactly for a basis field; for a SIREN as far as its images are linear in small changes."""
    net, near = made(tmp_path, kind), 0.02 * drawn(2, 1.0)
    metric = image_metric(image_curvature(net, near, SHAPE))
    values = net.decode(torch.from_numpy(near), SHAPE).numpy()
    expected = np.sqrt(np.square(values[0] - values[1]).mean())
    found = nearest_distances(near[:1], near[1:], metric)
    assert found == pytest.approx(expected, rel=1e-4 if kind == "basis" else 0.1)
    assert reconstruct(net, near, SHAPE).shape == values.shape


def test_latents_that_are_stored_shorter_have_the_corner_of_the_matrix(tmp_path: Path) -> None:
    net = made(tmp_path, "basis")
    whole = image_curvature(net, drawn(2, 1.0), SHAPE)
    assert image_curvature(net, drawn(2, 1.0)[:, :5], SHAPE) == pytest.approx(whole[:5, :5])


def test_many_points_and_scans_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, latents = made(tmp_path, "siren"), drawn(8, 0.01)
    whole = image_curvature(net, latents, (48, 48))
    monkeypatch.setattr(module, "POINTS", 400)
    monkeypatch.setattr(module, "SCANS", 2)
    sampled = image_curvature(net, latents, (48, 48))
    assert sampled != pytest.approx(whole, rel=1e-9)
    assert np.linalg.norm(sampled - whole) < 0.1 * np.linalg.norm(whole)


def test_a_trained_basis_is_orthonormal_and_its_metric_the_plain_one(tmp_path: Path) -> None:
    net = made(tmp_path, "basis")
    found = features(net.spec, net.params, grid(SHAPE)).flatten(0, 1).double()
    map_ = Orthonormal.of(found.T @ found / len(found)).map[:, -LATENT:].float()
    turned = replace(net, params=net.params | {MAP: map_})
    assert (image_curvature(turned, drawn(2, 1.0), SHAPE) == np.eye(LATENT)).all()
    assert image_metric(image_curvature(turned, drawn(2, 1.0), SHAPE)).map is None
    doubled = replace(net, params=net.params | {MAP: 2 * map_})
    assert image_curvature(doubled, drawn(2, 1.0), SHAPE) == pytest.approx(4 * np.eye(LATENT), abs=1e-2)
