"""The basis field: training steps, its latent's coordinates, the solver and exact fits, at the presets' sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import ways
from benchmarks.gpu.bench import Bench, Values
from benchmarks.gpu.sizes import BasisSize
from medfuncta_dist.fields.basis import init_params
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.learner import Trained

BLOCK_BYTES = 2**26
"""Of the features of one block of points, as the run file's default is."""
RIDGE = 1e-4
BATCHES = (256, 4096)
"""Of exact fits: the fit stage's, and a large one."""
LARGE, EIGEN_SECONDS = 4096, 25.0
"""Above so many features the coordinates of the latent, an eigendecomposition, are begun only with so much time left:
without them the fits are as fast."""
MOST_VALUES = 2**28
"""Of one batch of scans on the card: 1 GB."""


def run(bench: Bench) -> None:
    """Each preset: training, then what is fitted with."""
    for size in bench.sizes.basis:
        for way in (ways.Way("fp32"), *ways.EAGER[:2]):
            bench.part(f"{size.name}, training step, {way.name}", lambda size=size, way=way: trains(bench, size, way))
        kept: list[Trained] = []
        least = EIGEN_SECONDS if bench.cuda and size.latent > LARGE else 0.0
        work = lambda size=size, kept=kept: finished(bench, size, kept)  # noqa: E731
        bench.part(f"{size.name}, coordinates of the latent", work, least)
        field = kept[0] if kept else raw(bench, size)
        for way in (ways.Way("fp32"), *ways.EAGER[:2]):
            work = lambda size=size, way=way, field=field: fits(bench, size, way, field)  # noqa: E731
            bench.part(f"{size.name}, exact fits, {way.name}", work)
        bench.release()


def learner_of(bench: Bench, size: BasisSize, way: ways.Way) -> BasisLearner:
    """An untrained field on the grid."""
    params = {name: t.to(bench.device) for name, t in init_params(size.spec, torch.Generator().manual_seed(0)).items()}
    points, settled = max(1, BLOCK_BYTES // (4 * size.spec.widest)), ways.arithmetic(way, bench)
    return BasisLearner(size.spec, params, grid(size.shape, bench.device), size.latent, RIDGE, points, settled)


def raw(bench: Bench, size: BasisSize) -> Trained:
    """The trunk's own functions as latent coordinates: a fit is as fast with these."""
    return Trained(size.spec, learner_of(bench, size, ways.Way("fp32")).params())


def smooth(size: BasisSize, count: int, device: torch.device) -> Tensor:
    """Smooth noise of any number of axes: (scan, point, channel)."""
    axes = len(size.shape)
    small = torch.rand(count, 1, *([5] * axes), generator=torch.Generator().manual_seed(0))
    mode = "bilinear" if axes == 2 else "trilinear"
    large = torch.nn.functional.interpolate(small, size=size.shape, mode=mode, align_corners=True)
    return large.reshape(count, -1, 1).to(device)


def trains(bench: Bench, size: BasisSize, way: ways.Way) -> Values:
    """One outer step: the exact solve and its gradient."""
    learner, scans = learner_of(bench, size, way), smooth(size, size.batch, bench.device)
    latents = scans.new_zeros(size.batch, size.latent, requires_grad=True)

    def step() -> None:
        learner.zero_grad(set_to_none=True)
        learner(scans, latents, []).mean().backward()

    memory = bench.peak(step)
    return {"ms": bench.timed(step) * 1e3, "scans": size.batch, **memory}


def finished(bench: Bench, size: BasisSize, kept: list[Trained]) -> Values:
    """What is computed once after training."""
    learner = learner_of(bench, size, ways.Way("fp32"))
    scans = smooth(size, min(bench.sizes.basis_scans, 512), bench.device)
    seconds = bench.seconds_of(lambda: kept.append(learner.trained(learner.params(), [scans])))
    return {"seconds": seconds, "scans": len(scans)}


def fits(bench: Bench, size: BasisSize, way: ways.Way, field: Trained) -> Values:
    """Scans per second on scans that are there, and with copies from and to the host; the solver is made once."""
    settings = replace(FitSettings(), arithmetic=ways.arithmetic(way, bench))
    made: list[Fitter] = []

    def make() -> None:
        parts = ({name: t.to(bench.device) for name, t in part.items()} for part in (field.params, field.extras))
        params, extras = parts
        made.append(new_fitter(field.spec, params, grid(size.shape, bench.device), settings, extras))

    found: Values = {"solver_seconds": bench.seconds_of(make)}
    for batch in BATCHES if bench.cuda else (bench.sizes.basis_scans,):
        here = smooth(size, min(batch, MOST_VALUES // field_values(size)), torch.device("cpu"))
        here = here.pin_memory() if bench.cuda else here
        there = here.to(bench.device)
        found[f"scans_per_s_{batch}"] = len(there) / bench.timed(partial(made[0].fit, there))
        found[f"scans_per_s_{batch}_copied"] = len(there) / bench.timed(lambda here=here: copied(bench, made[0], here))
        found["psnr"] = float(made[0].fit(there).psnr.mean())
    return found


def field_values(size: BasisSize) -> int:
    """Values per scan."""
    return int(torch.tensor(size.shape).prod())


def copied(bench: Bench, fitter: Fitter, scans: Tensor) -> tuple[Tensor, ...]:
    """As a fit task does: scans to the device, and back all that the table holds."""
    found = fitter.fit(scans.to(bench.device, non_blocking=True))
    return found.stored.numbers.cpu(), found.psnr.cpu(), found.finite.cpu()
