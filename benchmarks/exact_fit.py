"""Fitting a basis field: scans per second of the product alone, and from shards on disk to committed parts.

Sizes are the paper's in 2D: 64 x 64, P = 2048. The trunk is random and untrained, the latent's coordinates are computed
as after training: the arithmetic, and so the speed, is that of a trained network.

product   ``ExactFitter.fit`` on the fit stage's batch, one thread: every latent, and the PSNR of each. In turns with
          the published procedure (``fit_throughput.py``: 15 x 256, one scan at a time, 20 steps, rescaled).
stage     the fit stage's own driver and tasks, on shards that the pack stage wrote: copy to the node's cache with
          SHA-256, read and CRC-32C, decode, scale, product, Parquet, commit record. Each pass begins with an empty
          cache and an empty table. One process runs the tasks by itself; two are Ray's, side by side, with one compute
          thread each.
GPU       the product again, where there is a GPU. Each time ends when the device has finished.

The product needs torch, NumPy, safetensors and jaxtyping only; the stage needs the whole package, and is left out where
Ray is not installed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Claim, arguments, device, ratio, report, side_by_side, wait_for

# isort: split
import numpy as np
import torch
from torch import Tensor

from benchmarks.fit_throughput import PAPER, images, published_fit, timed
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.basis import init_params as init_basis
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import init_params as init_siren
from medfuncta_dist.latents.fit import Fitter, new_fitter
from medfuncta_dist.latents.fit_result import FitResult
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.learner import Trained

if TYPE_CHECKING:
    from medfuncta_dist.task_map import FanOut

SIDE = 64
BATCH = 256
"""The default of ``fit.batch``: what a fit task gives to the product at once."""
ONE, TWO = "one process", "two processes"


@dataclass(frozen=True)
class Size:
    """How much is done. ``scans`` are packed, ``shard_scans`` per shard and fit task."""

    latent: int
    hidden: int
    published_steps: int
    batches: int
    rounds: int
    scans: int
    shard_scans: int
    gpu_batches: tuple[int, ...]
    gpu_scans: int
    """Fitted per time on a GPU, in batches."""

    @property
    def spec(self) -> BasisSpec:
        """As ``preset: 2d``, with as many features as numbers: a fit does not know how many features there are."""
        omegas = (20.0, 20.0)
        return BasisSpec(2, 1, len(omegas) + 1, self.hidden, self.latent, self.latent, omegas, mapped=False)


FULL = Size(
    latent=2048,
    hidden=256,
    published_steps=20,
    batches=8,
    rounds=3,
    scans=16_384,
    shard_scans=1024,
    gpu_batches=(BATCH, 16 * BATCH),
    gpu_scans=2**18,
)
SHORT = Size(
    latent=64,
    hidden=32,
    published_steps=1,
    batches=1,
    rounds=1,
    scans=96,
    shard_scans=24,
    gpu_batches=(BATCH,),
    gpu_scans=2 * BATCH,
)


def main() -> None:
    """Measure, and report."""
    short, began = arguments(__doc__ or "").short, time.perf_counter()
    size = SHORT if short else FULL
    torch.set_num_threads(1)
    field = untrained(size)
    results: dict[str, Any] = {"product": product(field, size)}
    if find_spec("ray"):
        results["stage"] = stage(field, size)
    if device().type == "cuda":
        results["gpu"] = product_on(device(), field, size)
    report("exact_fit", short, began, results, claims(results), table(results), notes(results))


def untrained(size: Size) -> Trained:
    """A random trunk in the latent's own coordinates, of a few scans."""
    spec = size.spec
    params = init_basis(spec, torch.Generator().manual_seed(0))
    learner = BasisLearner(spec, params, grid((SIDE, SIDE)), size.latent, ridge=1e-4, block_points=8192)
    return learner.trained(learner.params(), [images(None, "train", 2 * BATCH, SIDE)])


def fitter_of(field: Trained, device: torch.device) -> Fitter:
    """The field on the grid, as a fit task makes it: once per process."""
    params, extras = ({name: t.to(device) for name, t in part.items()} for part in (field.params, field.extras))
    return new_fitter(field.spec, params, grid((SIDE, SIDE), device=device), FitSettings(), extras)


def product(field: Trained, size: Size) -> dict[str, Any]:
    """Scans/s of the product and of the published procedure, in turns, on one thread."""
    began = time.perf_counter()
    fitter = fitter_of(field, torch.device("cpu"))
    made = time.perf_counter() - began
    scans = images(None, "test", BATCH, SIDE)
    params = init_siren(PAPER, torch.Generator().manual_seed(0))
    published = partial(published_fit, PAPER, params, grid((SIDE, SIDE)), scans[:1], size.published_steps)
    found = fitter.fit(scans)  # also the warm-up
    speeds = side_by_side(
        {
            "published": lambda: 1 / timed(published),
            "product": lambda: (
                len(scans) * size.batches / timed(lambda: [fitter.fit(scans) for _ in range(size.batches)])
            ),
        },
        size.rounds,
    )
    return {
        "scans_per_s": medians(speeds),
        "over_published": ratio(speeds["product"], speeds["published"]),
        "published_steps": size.published_steps,
        "batch": len(scans),
        "made_seconds": made,
        "mean_psnr": float(found.psnr.mean()),
        "rounds": speeds,
    }


def product_on(device: torch.device, field: Trained, size: Size) -> dict[str, Any]:
    """Scans/s of the product on a device, by batch: in float32 and TF32 on scans that are there, and with copies."""
    began = time.perf_counter()
    fitter = fitter_of(field, device)
    wait_for(device)
    made = time.perf_counter() - began
    rows, psnr = {}, {}
    for batch in size.gpu_batches:
        scans = images(None, "test", batch, SIDE)
        there = scans.to(device)
        kinds: dict[str, tuple[str, Callable[[], object]]] = {
            "float32": ("highest", lambda there=there: fitter.fit(there)),
            "TF32": ("high", lambda there=there: fitter.fit(there)),
            "float32, with copies": ("highest", lambda scans=scans: copied(fitter, scans, device)),
        }
        speeds = side_by_side(
            {name: partial(speed_on, device, batch, size, *kind) for name, kind in kinds.items()}, size.rounds
        )
        rows[str(batch)] = {"scans_per_s": medians(speeds), "rounds": speeds}
        psnr[str(batch)] = {name: psnr_on(fitter, there, kinds[name][0]) for name in ("float32", "TF32")}
    return {"by_batch": rows, "mean_psnr": psnr, "made_seconds": made}


def speed_on(device: torch.device, batch: int, size: Size, precision: str, work: Callable[[], object]) -> float:
    """Scans/s. The device works behind the calls: it is waited for before the clock starts and before it stops."""
    repeats = size.gpu_scans // batch
    with multiplying(precision):
        work()
        wait_for(device)
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        wait_for(device)
        return batch * repeats / (time.perf_counter() - began)


def copied(fitter: Fitter, scans: Tensor, device: torch.device) -> tuple[np.ndarray, ...]:
    """As a fit task does: scans to the device, and back all that the table holds."""
    found: FitResult = fitter.fit(scans.to(device))
    return tuple(part.cpu().numpy() for part in (found.stored.numbers, found.psnr, found.steps, found.finite))


def psnr_on(fitter: Fitter, scans: Tensor, precision: str) -> float:
    """Mean PSNR (dB): what products in TF32 cost."""
    with multiplying(precision):
        return float(fitter.fit(scans).psnr.mean())


@contextmanager
def multiplying(precision: str) -> Iterator[None]:
    """Products of float32 numbers as they are (``highest``) or, on a GPU, in TF32 (``high``)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def stage(field: Trained, size: Size) -> dict[str, Any]:
    """Scans/s of the fit stage with one process and with two, in turns; then what one process spends its time on."""
    import ray

    from benchmarks.fit_archive import Archive, ArchiveSize
    from medfuncta_dist.run.fan_outs import compute_fan_out
    from medfuncta_dist.task_map import map_here

    os.environ.pop("RAY_ADDRESS", None)  # this machine is measured
    with tempfile.TemporaryDirectory() as folder:
        archive = Archive(Path(folder), field, ArchiveSize(SIDE, size.scans, size.shard_scans))
        fan_outs: dict[str, FanOut] = {ONE: map_here, TWO: compute_fan_out(archive.run)}
        try:
            first = {name: archive.seconds(fan_out) for name, fan_out in fan_outs.items()}
            speeds = side_by_side(
                {name: partial(archive.speed, fan_out) for name, fan_out in fan_outs.items()}, size.rounds
            )
        finally:
            ray.shutdown()
        return {
            "scans": size.scans,
            "scans_per_s": medians(speeds),
            "two_over_one": ratio(speeds[TWO], speeds[ONE]),
            "first_pass_seconds": first,
            "cpu_us_per_scan": archive.cpu_by_step(),
            **archive.bytes_per_scan(),
            "rounds": speeds,
        }


def medians(speeds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each variant's rounds."""
    return {name: statistics.median(numbers) for name, numbers in speeds.items()}


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """The claims that could be measured here."""
    over = results["product"]["over_published"]
    found = [Claim("the product over the published fit, scans/s on one thread", over, 200, True)]
    if "stage" in results:
        speed = results["stage"]["scans_per_s"][TWO]
        found.append(Claim("from shards on disk to committed parts, two processes, scans/s", speed, 2000, True))
    if "gpu" in results:
        speed = results["gpu"]["by_batch"][str(BATCH)]["scans_per_s"]["float32"]
        found.append(Claim(f"the product on the GPU, float32, batch {BATCH}, scans/s", speed, 100_000, True))
    return found


def table(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Speeds, then where one process spends its time."""
    names = {"published": "published fit, one thread", "product": f"product, one thread, batch {BATCH}"}
    rows = {names[name]: speed for name, speed in results["product"]["scans_per_s"].items()}
    if "stage" in results:
        rows |= {f"stage, {name}": speed for name, speed in results["stage"]["scans_per_s"].items()}
    for batch, row in results.get("gpu", {}).get("by_batch", {}).items():
        rows |= {f"product, GPU, batch {batch}, {name}": speed for name, speed in row["scans_per_s"].items()}
    speeds = [{"what": name, "scans/s": speed, "CPU µs per scan": ""} for name, speed in rows.items()]
    steps = results["stage"]["cpu_us_per_scan"] if "stage" in results else {}
    return speeds + [{"what": f"of a task: {step}", "scans/s": "", "CPU µs per scan": us} for step, us in steps.items()]


def notes(results: Mapping[str, Any]) -> list[str]:
    """What was measured, and what was left out."""
    alone, found = (
        results["product"],
        ["The trunk is random and untrained, the scans are smooth noise: neither changes the speed."],
    )
    found.append(
        f"Made once per process and not in the product's speed: the solver, {alone['made_seconds']:.1f} s. "
        f"The published fit took {alone['published_steps']} steps."
    )
    found += stage_notes(results["stage"]) if "stage" in results else ["Ray is not installed: the stage was not run."]
    return found + (gpu_notes(results["gpu"]) if "gpu" in results else ["No GPU was there."])


def stage_notes(found: Mapping[str, Any]) -> list[str]:
    """What a pass is, and what the first one had to do beside it."""
    first, cpu = found["first_pass_seconds"], sum(found["cpu_us_per_scan"].values())
    return [
        f"Stage: {found['scans']} scans, {found['shard_bytes_per_scan']:.0f} bytes each in the shards and "
        f"{found['part_bytes_per_scan']:.0f} in the parts. Each process has one compute thread, and one that reads the "
        f"next batch. Two processes over one: {found['two_over_one']:.2f}.",
        f"Not in the stage's speed is what a process does once. The first pass took {first[ONE]:.1f} s in one process "
        f"(makes the solver), {first[TWO]:.1f} s in two (starts Ray and its workers, and makes the solver in each).",
        f"CPU times are of one process with all its threads, from a pass of its own; {cpu:.0f} µs per scan in all: two "
        f"cores that do nothing else could fit {2e6 / cpu:.0f} scans/s.",
    ]


def gpu_notes(found: Mapping[str, Any]) -> list[str]:
    """What TF32 does, and what the GPU waits for."""
    psnr = found["mean_psnr"][str(BATCH)]
    return [
        f"GPU: mean PSNR {psnr['float32']:.2f} dB in float32, which the fit stage uses, {psnr['TF32']:.2f} in TF32; "
        f"the solver was made in {found['made_seconds']:.1f} s.",
        "With copies: each batch comes from the host's memory, and its latents go back, as in a fit task. What the "
        "stage reaches on a GPU is bounded by its CPU cores: see the CPU times of all steps but the product.",
    ]


if __name__ == "__main__":
    main()
