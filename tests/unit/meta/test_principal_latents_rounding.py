"""A latent's coordinates are those that exact arithmetic gives, where the features hardly differ from each other."""

from __future__ import annotations

import torch
from torch import Tensor

from medfuncta_dist.fields.basis import BasisSpec, features, init_params, mean_and_basis
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner

POINTS, FEATURES, LATENT, SCANS = 24, 160, 80, 800


def decibel(scans: Tensor, basis: Tensor) -> float:
    """PSNR of what a basis, made orthonormal, leaves of scans without a mean."""
    orthonormal = torch.linalg.qr(basis.double())[0]
    return float(-10 * (scans - scans @ orthonormal @ orthonormal.T).square().mean().log10())


def test_the_first_numbers_are_the_best_of_the_features_span() -> None:
    spec = BasisSpec(2, 1, 3, 32, FEATURES, FEATURES, (10.0, 10.0), mapped=False)
    params, coordinates = init_params(spec, torch.Generator().manual_seed(0)), grid((POINTS, POINTS))
    sampled = features(spec, params, coordinates).flatten(0, 1).double()
    directions, strengths, _ = torch.linalg.svd(sampled, full_matrices=False)
    # Scans vary along the features' own directions as much as these do.
    falling = strengths / strengths[0]
    weights = torch.randn(SCANS, FEATURES, generator=seeded(2), dtype=torch.float64) * falling
    scans = weights @ directions.T
    learner = BasisLearner(spec, params, coordinates, LATENT, 1e-4, POINTS**2)
    found = learner.trained(params, [(scans + 0.5).float()[..., None]])
    _, basis = mean_and_basis(found.spec, found.params, coordinates)
    centred = scans - scans.mean(0)
    best = torch.linalg.svd(centred, full_matrices=False)[2][:LATENT].T
    assert strengths[0] / strengths[-1] > 1e3
    assert decibel(centred, basis.flatten(0, 1)) > decibel(centred, best) - 0.05


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
