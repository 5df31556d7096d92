"""Fits beside the published procedure, in turns in one process: scans per second, and the PSNR of each."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.fit_throughput import images, published_fit
from benchmarks.gpu import trained, ways
from benchmarks.gpu.bench import Bench, Values
from benchmarks.gpu.sections.fit_quality import settings
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import field
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.losses import psnr

COMPARED = 8
"""Scans that the published procedure fits for its PSNR."""
COMPILE_SECONDS = 40.0
"""Left at least, before a compiled way is begun."""


def run(bench: Bench) -> None:
    """Plain steps and Gauss-Newton, in one way after the other."""
    params, sizes = trained.network(bench), bench.sizes
    scans = images(bench.job.data, "test", sizes.fit_scans, sizes.side).to(bench.device)
    scans = scans[torch.arange(sizes.fit_scans, device=bench.device) % len(scans)]
    bench.part("published procedure", lambda: published(bench, params, scans))
    plain: dict[str, float] = {}
    for group in (ways.KERNELS, ways.CAPTURED, ways.EAGER, ways.COMPILED):
        for way in group:
            for name, given in settings(bench).items():
                work = lambda name=name, given=given, way=way: measured(  # noqa: E731
                    bench, params, scans, given, way, plain if name == "Gauss-Newton" else {}
                )
                found = bench.part(f"{name}, {way.name}", work, COMPILE_SECONDS if way.compiled and bench.cuda else 0)
                if found and name == "plain steps":
                    plain.setdefault(way.precision, found["psnr"])


def baseline(bench: Bench, params: Params, scan: Tensor) -> Tensor:
    """The latent of one scan (1, point, channel)."""
    side, sizes = bench.sizes.side, bench.sizes
    coordinates = grid((side, side), bench.device)
    return published_fit(sizes.spec(), params, coordinates, scan, sizes.plain_steps, sizes.rate)


def published(bench: Bench, params: Params, scans: Tensor) -> Values:
    """One scan at a time, as published: its speed and PSNR."""
    seconds, some = bench.timed(partial(baseline, bench, params, scans[:1])), scans[:COMPARED]
    latents = torch.cat([baseline(bench, params, scan[None]) for scan in some])
    side = bench.sizes.side
    with torch.no_grad():
        values = field(bench.sizes.spec(), params, grid((side, side), bench.device), latents)
    return {"scans_per_s": 1 / seconds, "psnr_of_first": float(psnr(values, some).mean()), "scans": len(some)}


def measured(
    bench: Bench, params: Params, scans: Tensor, given: FitSettings, way: ways.Way, plain: dict[str, float]
) -> Values:
    """Scans per second of one way; ``plain``: PSNR of plain steps by precision, where it is compared with that."""
    side = bench.sizes.side
    fitter = ways.fitter(bench.sizes.spec(), params, grid((side, side), bench.device), given, way, bench)
    result = fitter.fit(scans[: bench.sizes.scans])  # what is computed or recorded once per network

    def of(count: int) -> Values:
        nonlocal result
        batch = scans[:count]
        result = fitter.fit(batch)
        memory = bench.peak(partial(fitter.fit, batch))
        turns = bench.side_by_side(partial(fitter.fit, batch), partial(baseline, bench, params, scans[:1]))
        speed, theirs = count / turns.ours, 1 / turns.baseline
        return {"scans_per_s": speed, "baseline_scans_per_s": theirs, "over_baseline": speed / theirs, **memory}

    counts = [count for count in (len(scans), 2 * bench.sizes.scans, bench.sizes.scans, 4) if count <= len(scans)]
    found = bench.fitting_memory(counts, of)
    quality = float(result.psnr.mean())
    gain = {"psnr_over_plain": quality - plain[way.precision]} if way.precision in plain else {}
    return {
        "scans": len(result.psnr),
        **found,
        "halved": fitter.halved,
        "unsolved": int(result.unsolved.sum()),
        "psnr": quality,
        "psnr_of_first": float(result.psnr[:COMPARED].mean()),
        **gain,
    }
