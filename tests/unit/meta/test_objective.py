from __future__ import annotations

import pytest
import torch

from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.directional import directional_gradient, directional_sweep
from medfuncta_dist.meta.sweeps.folded import ThetaGradient
from medfuncta_dist.meta.sweeps.inner_gradient import gradient_sweep, loss_sweep, losses, shift_gradient
from tests.unit.meta.problems import problem

CHUNKS = [Chunks(7, 1), Chunks(6, 2), Chunks(1000, 1000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_sums_over_blocks_are_those_in_the_order_of_the_chunks_to_the_last_bit(
    chunks: Chunks, dtype: torch.dtype
) -> None:
    """The order of sums is part of a run's record: points within scans, each block added to what came before."""
    p = problem(2, "code", 1.0, dtype=dtype)
    objective, directions = p.objective(chunks), p.latents[:, None]
    network, shifts, tangents = objective.network, objective.shifts, objective.network.tangents(directions)
    theta, wanted_theta = ThetaGradient(network), ThetaGradient(network)
    weight = 1 / (20 * 2)
    errors, gradient = torch.zeros(3, dtype=dtype), torch.zeros_like(shifts)
    motions = [torch.zeros_like(shifts), torch.zeros_like(shifts)]
    for scan in range(0, 3, chunks.scans):
        scans = slice(scan, scan + chunks.scans)
        for point in range(0, 20, chunks.points):
            points = slice(point, point + chunks.points)
            block = network, p.coordinates[points], p.targets[scans, points], shifts[scans]
            errors[scans] += loss_sweep(*block)
            gradient[scans] += gradient_sweep(*block, weight)[0]
            parts = directional_sweep(*block, tangents[scans], weight, wanted_theta)
            for total, part in zip(motions, parts, strict=True):
                total[scans] += part
    assert torch.equal(losses(objective), errors / (20 * 2))
    assert torch.equal(shift_gradient(objective)[0], gradient)
    by_latents, by_tangents = directional_gradient(objective, directions, theta)
    assert torch.equal(by_latents, network.pull_back(motions[0]))
    assert torch.equal(by_tangents, motions[1])
    assert all(torch.equal(theta.weights[k], weight_sum) for k, weight_sum in wanted_theta.weights.items())


def test_a_context_set_is_its_points_alone() -> None:
    objective = problem(1, "paper", 1.0).objective(Chunks(4, 2))
    context = torch.tensor([0, 3, 4, 11, 16])
    seen = objective.on(context)
    assert torch.equal(seen.coordinates, objective.coordinates[context])
    assert torch.equal(seen.targets, objective.targets[:, context])
    assert torch.equal(seen.latents, objective.latents)
    assert seen.values_per_scan == 5 * 2
    assert objective.on(torch.arange(17)) is objective


def test_other_latents_change_nothing_else() -> None:
    objective = problem(1, "paper", 1.0).objective(Chunks(4, 2))
    there = objective.at(torch.zeros_like(objective.latents))
    assert torch.equal(there.shifts, objective.network.shifts(there.latents))
    assert not torch.equal(losses(there), losses(objective))
    assert there.coordinates is objective.coordinates
