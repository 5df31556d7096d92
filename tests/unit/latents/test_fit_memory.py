"""What a block is said to take, against what torch allocates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.latents.fit_memory import block_bytes
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter
from medfuncta_dist.meta.sweeps.chunks import Chunks

SIDE = 28
NEWTON = FitSettings(3, method="gauss-newton", curvature_ratio=0.309)


def peak(spec: SirenSpec, settings: FitSettings, scans: int, weighted: bool = False) -> int:
    """The most bytes that torch held at once while it fitted one block."""
    fitter = StepwiseFitter(spec, init_params(spec, torch.Generator().manual_seed(0)), grid([SIDE, SIDE]), settings)
    targets = torch.rand(scans, SIDE**2, spec.channels, generator=torch.Generator().manual_seed(1))
    given = [targets, torch.ones(scans, SIDE**2)] if weighted else [targets]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        fitter.fit(*given)
    results = profiled.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    held = highest = 0
    for _, change in changes:
        held += change
        highest = max(highest, held)
    return highest


@pytest.mark.parametrize(
    ("latent", "channels", "settings"),
    [
        (128, 1, NEWTON),
        (1024, 1, NEWTON),
        (512, 1, replace(NEWTON, curvature_ratio=1.0)),
        (512, 2, replace(NEWTON, selection_ratio=0.618, curvature_ratio=0.5)),
        (1024, 1, replace(NEWTON, selection_ratio=0.1)),
        (128, 1, FitSettings(2)),
        (128, 1, FitSettings(2, selection_ratio=0.5, full_steps=1)),
    ],
    ids=["primal", "dual", "primal, all points", "dual, two channels", "few points", "sgd", "sparse sgd"],
)
@pytest.mark.parametrize("points", [1024, 300])
def test_a_scan_takes_what_is_said(latent: int, channels: int, settings: FitSettings, points: int) -> None:
    spec = SirenSpec.linear(
        coords=2, channels=channels, layers=5, hidden=64, latent=latent, omega_first=20, omega_last=80
    )
    few, many = (peak(spec, replace(settings, chunks=Chunks(points, scans)), scans) for scans in (2, 6))
    said = block_bytes(spec, SIDE**2, replace(settings, chunks=Chunks(points, 6)))
    assert 1 / 1.5 < said / ((many - few) / 4) < 1.5


@pytest.mark.parametrize(
    "settings",
    [NEWTON, replace(NEWTON, closed_form=True), FitSettings(2, selection_ratio=0.5, full_steps=1)],
    ids=["gauss-newton", "closed form", "sgd"],
)
def test_so_does_one_whose_points_have_weights(settings: FitSettings) -> None:
    spec = SirenSpec.linear(coords=2, channels=1, layers=5, hidden=64, latent=512, omega_first=20, omega_last=80)
    few, many = (peak(spec, replace(settings, chunks=Chunks(300, scans)), scans, weighted=True) for scans in (2, 6))
    said = block_bytes(spec, SIDE**2, replace(settings, chunks=Chunks(300, 6)), weighted=True)
    assert 1 / 1.5 < said / ((many - few) / 4) < 1.5
