"""Memory of training and of Gauss-Newton fits at large latents, and of the largest case: γ = 1 at 224², P = 16384."""

from __future__ import annotations

import time
from functools import partial

import torch

from benchmarks.common import wait_for
from benchmarks.fit_throughput import images, newton
from benchmarks.gpu import steps, ways
from benchmarks.gpu.bench import Bench, Values
from benchmarks.gpu.targets import LARGEST
from benchmarks.gpu.trained import OuterLoop, first_that_steps
from medfuncta_dist.fields.coordinates import grid

EAGER = (ways.EAGER_KERNELS[0], ways.Way("fp32"))
STEPPING = (ways.KERNELS[0], *EAGER)
"""The largest case is not captured: its kernels are long, and recording would take a step several times."""
BLOCKS = (64, 16, 4, 1)
"""Scans of a Gauss-Newton block that are tried, until the memory is enough."""


def run(bench: Bench) -> None:
    """The largest case, which is a target; training at each latent size; fits."""
    sizes = bench.sizes
    widest = sizes.wide_latents[-1]
    bench.part(LARGEST, lambda: trains(bench, widest, sizes.largest_side, 1.0, EAGER))
    bench.release()
    for latent in sizes.wide_latents:
        bench.part(f"training step, P = {latent}", lambda latent=latent: trains(bench, latent, sizes.side, sizes.ratio))
        bench.release()
    for latent in sizes.wide_latents:
        bench.part(f"Gauss-Newton, P = {latent}", lambda latent=latent: fits(bench, latent))
        bench.release()


def trains(bench: Bench, latent: int, side: int, ratio: float, candidates: tuple[ways.Way, ...] = STEPPING) -> Values:
    """One whole outer step with AdamW's moments, at the batch that the memory is enough for."""
    asked = bench.sizes.scans

    def with_scans(count: int) -> Values:
        scans = images(bench.job.data, "train", count, side).to(bench.device)
        spec = bench.sizes.spec(latent)
        coordinates = grid((side, side), bench.device)

        def loop_of(way: ways.Way) -> OuterLoop:
            learner = ways.learner(spec, steps.untrained(spec, bench.device), coordinates, way, bench, count)
            return OuterLoop(bench, learner, scans, bench.sizes.training_rate, count, ratio)

        way, loop = first_that_steps(bench, candidates, loop_of)
        told: Values = {}

        def step() -> None:  # one step for all that is asked: the largest takes seconds
            wait_for(bench.device)
            began = time.perf_counter()
            told["finite"] = bool(torch.isfinite(loop.step()).all())
            told["seconds"] = time.perf_counter() - began

        memory = bench.peak(step)
        sweep = f"{loop.chunks.points} x {loop.chunks.scans}"
        return {"scans": count, "scans_asked": asked, **memory, **told, "way": way, "sweep": sweep}

    counts = sorted({asked, max(1, asked // 2), max(1, asked // 4), 1}, reverse=True)
    return bench.fitting_memory(counts, with_scans)


def fits(bench: Bench, latent: int) -> Values:
    """A block of the largest size that the memory is enough for: P² numbers per scan, several times over."""
    sizes = bench.sizes
    spec, coordinates = bench.sizes.spec(latent), grid((sizes.side, sizes.side), bench.device)
    params = steps.untrained(spec, bench.device)
    way = EAGER[0] if bench.cuda else ways.Way("fp32")

    def block(count: int) -> Values:
        fitter = ways.fitter(spec, params, coordinates, newton(sizes.newton_steps), way, bench)
        scans = images(bench.job.data, "test", count, sizes.side).to(bench.device)
        fitter.fit(scans)
        memory = bench.peak(partial(fitter.fit, scans))
        return {
            "scans": len(scans),
            "halved": fitter.halved,
            **memory,
            "scans_per_s": len(scans) / bench.seconds_of(partial(fitter.fit, scans)),
        }

    return bench.fitting_memory(BLOCKS if bench.cuda else (2, 1), block)
