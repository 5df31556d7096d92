"""Fits of the same scans on the CPU and on the GPU: equal PSNR, equal bits when repeated, neighbours without effect."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from benchmarks.fit_throughput import images, newton
from benchmarks.gpu import trained, ways
from benchmarks.gpu.bench import Bench, Values
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter

LIMIT = 0.01
"""dB, by which a scan's PSNR may differ from the CPU's."""


def settings(bench: Bench) -> dict[str, FitSettings]:
    """The two fits that the targets are about."""
    sizes = bench.sizes
    return {
        "plain steps": FitSettings(sizes.plain_steps, sizes.rate),
        "Gauss-Newton": newton(sizes.newton_steps),
    }


def run(bench: Bench) -> None:
    """Each fit, in each precision."""
    params, sizes = trained.network(bench), bench.sizes
    scans = images(bench.job.data, "test", sizes.quality_scans, sizes.side)
    for name, given in settings(bench).items():
        expected = on_cpu(bench, params, scans, given)
        for way in (*reversed(ways.EAGER), *ways.CAPTURED, *ways.KERNELS):
            work = lambda given=given, way=way, expected=expected: compared(  # noqa: E731
                bench, params, scans, given, way, expected
            )
            bench.part(f"{name}, {way.name}", work)


def on_cpu(bench: Bench, params: Params, scans: Tensor, given: FitSettings) -> FitResult:
    """In float32, as a fit task without a GPU computes."""
    torch.set_num_threads(1 if bench.job.dry else os.cpu_count() or 1)
    here = {name: tensor.cpu() for name, tensor in params.items()}
    side = bench.sizes.side
    return StepwiseFitter(bench.sizes.spec(), here, grid((side, side)), given).fit(scans)


def compared(
    bench: Bench, params: Params, scans: Tensor, given: FitSettings, way: ways.Way, expected: FitResult
) -> Values:
    """PSNR against the CPU's, and the three promises of a fit."""
    side = bench.sizes.side
    fitter = ways.fitter(bench.sizes.spec(), params, grid((side, side), bench.device), given, way, bench)
    there = scans.to(bench.device)
    found, again = fitter.fit(there), fitter.fit(there)
    broken = there.clone()
    broken[1] = torch.nan
    beside = fitter.fit(broken)
    others = [row for row in range(len(scans)) if row != 1]
    difference = float((found.psnr.cpu() - expected.psnr).abs().max())
    return {
        "psnr": float(found.psnr.mean()),
        "psnr_cpu": float(expected.psnr.mean()),
        "unsolved_steps": int(found.unsolved.sum()),
        "largest_difference_db": difference,
        "within": difference <= LIMIT,
        "repeated_equal": torch.equal(found.latents, again.latents),
        "nan_neighbour_equal": torch.equal(found.latents[others], beside.latents[others]),
        "nan_scan_is_marked": not bool(beside.finite[1]) and bool(beside.finite[others].all()),
    }
