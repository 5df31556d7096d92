"""The two forms of the curvature, against each other and at the least damping there is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.latents.curvature import Sample, curved_gradient, spread_points
from medfuncta_dist.latents.curvature_forms import AtOrigin, Curvature, Dual, Primal, form_of, take_back
from medfuncta_dist.latents.fit import fit_batch
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.fit_steps import SMALLEST_DAMPING
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold

SPEC = SirenSpec.linear(coords=2, channels=2, layers=4, hidden=24, latent=96, omega_first=8, omega_last=16)
COORDINATES = grid([9, 8])
SAMPLE = Sample.of(spread_points(72, 0.4, 1), torch.device("cpu"))
"""29 points, 58 values: fewer than the 96 numbers of a latent."""


def both(dtype: torch.dtype, chunks: Chunks) -> tuple[Tensor, Curvature, Curvature]:
    """The latents' gradient and the curvature of three scans, in both forms."""
    params = {n: t.to(dtype) for n, t in init_params(SPEC, torch.Generator().manual_seed(0)).items()}
    drawn = torch.Generator().manual_seed(1)
    latents = 0.1 * torch.randn(3, 96, generator=drawn, dtype=torch.float64).to(dtype)
    targets = torch.rand(3, 72, 2, generator=drawn, dtype=torch.float64).to(dtype)
    network = fold(SPEC, params)
    objective = Objective(network, COORDINATES.to(dtype), targets, latents, chunks)
    by_shifts, _, primal = curved_gradient(objective, SAMPLE, Primal)
    return network.pull_back(by_shifts), primal, curved_gradient(objective, SAMPLE)[2]


@pytest.mark.parametrize("chunks", [Chunks(7, 2), Chunks(100, 100)])
@pytest.mark.parametrize("damping", [SMALLEST_DAMPING, 1.0, 1e6])
def test_both_forms_give_one_step(chunks: Chunks, damping: float) -> None:
    gradient, primal, dual = both(torch.float64, chunks)
    assert isinstance(dual, Dual)
    torch.testing.assert_close(dual.mean_diagonal, primal.mean_diagonal)
    (one, _), (other, solved) = (c.damped_solution(gradient.new_full((3,), damping), gradient) for c in (primal, dual))
    assert solved.all()
    torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9 * float(one.abs().max()))


def gain(exact: Primal, damping: float, gradient: Tensor, step: Tensor) -> Tensor:
    """What the damped quadratic model gains along −step, as a share of the most that it can."""
    added = damping * exact.mean_diagonal[:, None]
    best, _ = exact.damped_solution(gradient.new_full((len(gradient),), damping), gradient)

    def of(d: Tensor) -> Tensor:
        bent = torch.bmm(exact.matrix, d[..., None])[..., 0] + added * d
        return (gradient * d).sum(1) - 0.5 * (d * bent).sum(1)

    return of(step) / of(best)


@pytest.mark.parametrize("damping", [SMALLEST_DAMPING, 0.03, 1.0])
def test_float32_gains_what_there_is_to_gain_down_to_the_least_damping(damping: float) -> None:
    """Woodbury's difference alone would lose ten times as much at the least one; float32's primal form a tenth."""
    exact_gradient, exact, _ = both(torch.float64, Chunks(100, 100))
    assert isinstance(exact, Primal)
    gradient, _, dual = both(torch.float32, Chunks(100, 100))
    step, _ = dual.damped_solution(gradient.new_full((3,), damping), gradient)
    assert (gain(exact, damping, exact_gradient, step.double()) > 1 - 1e-7).all()


def test_the_form_follows_from_the_shapes_alone() -> None:
    assert [form_of(values, 96) for values in (1, 95, 96, 1000)] == [Dual, Dual, Primal, Primal]


def test_a_scan_of_nan_or_without_a_factor_spoils_no_other_in_the_dual_form() -> None:
    gradient, _, dual = both(torch.float32, Chunks(100, 100))
    assert isinstance(dual, Dual)
    damping = gradient.new_full((3,), 0.1)
    clean, _ = dual.damped_solution(damping, gradient)
    dual.rows[0], dual.gram[0], dual.gram[1] = math.nan, math.nan, -dual.gram[1]
    found, solved = dual.damped_solution(damping, gradient)
    assert solved.tolist() == [False, False, True]
    assert torch.equal(found[2], clean[2])
    assert torch.equal(found[:2], 0 * clean[:2])


def test_scans_are_taken_back_one_by_one() -> None:
    _, _, here = both(torch.float32, Chunks(100, 100))
    _, _, there = both(torch.float32, Chunks(7, 2))
    before = AtOrigin(there, Dual(*(2 * part[:1] for part in there.parts)))
    whole = [part.clone() for part in here.parts]
    take_back(torch.tensor([True, False, True]), here, before)
    for part, was, back in zip(here.parts, whole, before.parts, strict=True):
        assert torch.equal(part[[0, 2]], was[[0, 2]])
        assert torch.equal(part[1], back[0])


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_a_fit_in_the_dual_form_is_that_of_the_primal_one(
    monkeypatch: pytest.MonkeyPatch, closed_form: bool, damping: float
) -> None:
    params = {n: t.double() for n, t in init_params(SPEC, torch.Generator().manual_seed(0)).items()}
    targets = torch.rand(4, 72, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    settings = FitSettings(
        5, selection_ratio=0.9, method="gauss-newton", curvature_ratio=0.4, damping=damping, closed_form=closed_form
    )
    dual = fit_batch(SPEC, params, COORDINATES.double(), targets, settings)
    for module in ("curvature", "stepwise_fit"):
        monkeypatch.setattr(f"medfuncta_dist.latents.{module}.form_of", lambda values, latent: Primal)
    primal = fit_batch(SPEC, params, COORDINATES.double(), targets, settings)
    torch.testing.assert_close(dual.latents, primal.latents, rtol=1e-7, atol=1e-9)
