"""The prior's coordinates: white over the training latents, and distances in them are those of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.latents.image_curvature import image_curvature
from medfuncta_dist.prior.metric_coordinates import MetricCoordinates
from tests.kinds import KINDS
from tests.unit.latents.fitted import network, packed, run_file

SHAPE = (12, 12)


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SharedNetwork:
    folder = tmp_path_factory.mktemp("scans")
    run = run_file(folder, kind=request.param)
    packed(run, folder)
    return network(run)


def latents_of(shared: SharedNetwork, scans: int = 200, size: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(scans, shared.spec.latent, generator=generator)
    return size * (mixed @ torch.randn(shared.spec.latent, shared.spec.latent, generator=generator) + 1)


def test_latents_are_white_and_come_back(shared: SharedNetwork) -> None:
    latents = latents_of(shared)
    metric = image_curvature(shared, latents.numpy(), SHAPE)
    found = MetricCoordinates.of(latents, metric, numbers=1000)
    whitened = found.whitened(latents)
    torch.testing.assert_close(whitened.mean(0), torch.zeros(whitened.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(whitened.T @ whitened / 199, torch.eye(whitened.shape[1]), atol=0.02, rtol=0)
    assert (found.deviations.diff() <= 0).all()
    step = (found.latents(whitened) - latents).double()
    assert float(((step @ torch.from_numpy(metric)) * step).sum(1).max()) < 1e-5 * float(found.deviations[0]) ** 2
    placed, apart = whitened * found.deviations, (latents[0] - latents[1]).double()
    assert float((placed[0] - placed[1]).norm()) == pytest.approx(
        float((apart @ torch.from_numpy(metric) @ apart).sqrt()), rel=1e-3
    )


def test_fewer_numbers_are_those_along_which_images_differ_most(shared: SharedNetwork) -> None:
    latents = latents_of(shared)
    metric = image_curvature(shared, latents.numpy(), SHAPE)
    whole, few = (MetricCoordinates.of(latents, metric, numbers) for numbers in (1000, 4))
    torch.testing.assert_close(few.deviations, whole.deviations[:4])
    assert few.back.shape == (4, shared.spec.latent)


def test_few_scans_give_few_numbers() -> None:
    latents = torch.randn(22, 24, generator=torch.Generator().manual_seed(0))
    found = MetricCoordinates.of(latents, np.eye(24), 24)
    assert len(found.deviations) == 5
    others = found.whitened(torch.randn(500, 24, generator=torch.Generator().manual_seed(1)))
    assert float(others.square().mean()) < 2, "with all 21 that there are, it would be about 8"


def test_latents_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MedfunctaError, match="do not differ"):
        MetricCoordinates.of(torch.ones(10, 3), np.eye(3), 3)


def test_tensors_that_do_not_belong_together_are_refused() -> None:
    found = MetricCoordinates.of(torch.randn(50, 3), np.eye(3), 2)
    tensors = found.tensors()
    again = MetricCoordinates.from_tensors(tensors)
    assert all(torch.equal(getattr(again, name), getattr(found, name)) for name in ("mean", "into", "back"))
    for name, wrong in (("mean", torch.zeros(4)), ("back", torch.zeros(2, 4)), ("deviations", torch.zeros(3))):
        with pytest.raises(ValueError, match="belong together"):
            MetricCoordinates.from_tensors(tensors | {f"coordinates.{name}": wrong})
    with pytest.raises(ValueError, match="no tensor"):
        MetricCoordinates.from_tensors({})
