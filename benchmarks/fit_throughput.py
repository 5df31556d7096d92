"""Fitting: scans per second against PSNR, and PSNR against wall time.

Speed is taken at the paper's 2D size, where an untrained network is as fast as a trained one; quality on a small
network, trained here. The baseline is the published procedure: one scan at a time, eager autograd, 20 steps on all
points, each rescaled by a second gradient on a quarter of them. All of it computes on the GPU when there is one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.common import Claim, device, ratio, report, side_by_side, wait_for

# isort: split
import numpy as np
import torch
from torch import Tensor

from benchmarks.paper_field import paper_field
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec, field, init_params
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter
from medfuncta_dist.meta.context import context_indices, context_sets
from medfuncta_dist.meta.losses import mse
from medfuncta_dist.meta.outer_loop import MetaLearner

RATE, SUB = 0.5, 0.25
SMALL = SirenSpec.linear(coords=2, channels=1, layers=5, hidden=64, latent=128, omega_first=20, omega_last=80)
PAPER = paper_field()
NEWTON = FitSettings(steps=10, method="gauss-newton", curvature_ratio=0.309, closed_form=True)
QUICK = replace(NEWTON, steps=4, selection_ratio=0.618, curvature_ratio=0.5, damping=0.2)
"""The best that takes well under the time of five plain steps, chosen on the validation split."""
TRAINING_STEPS = 300


def newton(steps: int, **changes: Any) -> FitSettings:
    """Gauss-Newton as the run file has it by default, in so many steps."""
    return replace(NEWTON, steps=steps, **changes)


QUICK_NAME = "gauss-newton, 4 steps, 0.618 of points"
METHODS = {
    "sgd, 5 of 20 steps": FitSettings(5, RATE),
    "sgd, 20 steps": FitSettings(20, RATE),
    "sgd, 20 steps, rescaled": FitSettings(20, RATE, rescale=SUB),
    "sgd, 15 sparse steps, 5 full": FitSettings(20, RATE, 0.5, full_steps=5),
    "momentum, 20 steps": FitSettings(20, RATE, method="momentum", closed_form=True),
    **{f"gauss-newton, {n} steps": newton(n) for n in (3, 4, 5, 10)},
    QUICK_NAME: QUICK,
    "gauss-newton, 10 steps, float16": newton(10, storage_type="float16"),
    "gauss-newton, 10 steps, int8": newton(10, storage_type="int8"),
    "gauss-newton, 10 steps, until 29 dB": newton(10, target_psnr=29.0),
}


def images(path: str | None, split: str, count: int, side: int) -> Tensor:
    """(scan, point, channel) in [0, 1]: of a MedMNIST file, or smooth noise; resized."""
    if path:
        found = np.load(path, allow_pickle=False)[f"{split}_images"][:count].astype(np.float32) / 255
        small = torch.from_numpy(found)[:, None]
    else:
        small = torch.rand(count, 1, 7, 7, generator=torch.Generator().manual_seed(len(split)))
    large = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear", align_corners=True)
    return large.reshape(len(large), -1, 1)


def published_fit(
    spec: SirenSpec, params: Params, coordinates: Tensor, target: Tensor, steps: int, rate: float = RATE
) -> Tensor:
    """The baseline: the latent (1, P) of one scan (1, N, 1)."""
    latent = target.new_zeros(1, spec.latent)

    def gradient(points: Tensor | slice) -> Tensor:
        live = latent.clone().requires_grad_()
        loss = mse(field(spec, params, coordinates[points], live), target[:, points]).sum()
        return torch.autograd.grad(loss, live)[0]

    for step in range(steps):
        whole = gradient(slice(None))
        quarter = context_indices(len(coordinates), SUB, seed=0, outer_step=1, inner_step=step)
        sub = gradient(quarter.to(target.device))
        latent = latent - rate * (sub.norm() / whole.norm()) * whole
    return latent


def trained(scans: Tensor, steps: int) -> Params:
    """The small network after so many outer steps, on the scans' device."""
    place = scans.device
    learner = MetaLearner(SMALL, started(SMALL, place), grid((28, 28), place), RATE)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        batch = scans[torch.randperm(len(scans), generator=order)[:16].to(place)]
        contexts = [context.to(place) for context in context_sets(784, 0.5, 5, seed=0, outer_step=step)]
        optimiser.zero_grad()
        learner(batch, batch.new_zeros(16, SMALL.latent).requires_grad_(), contexts).mean().backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return {name: tensor.detach() for name, tensor in learner.params().items()}


def started(spec: SirenSpec, place: torch.device) -> Params:
    """An untrained network: the same numbers on every device."""
    return moved(init_params(spec, torch.Generator().manual_seed(0)), place)


def moved(params: Params, place: torch.device) -> Params:
    """The network on a device."""
    return {name: tensor.to(place) for name, tensor in params.items()}


def small_fitter(params: Params, settings: FitSettings) -> StepwiseFitter:
    """Of the small network, on its device."""
    return StepwiseFitter(SMALL, params, small_grid(params), settings)


def small_grid(params: Params) -> Tensor:
    """The small network's coordinates, on its device."""
    return grid((28, 28), params["layer.1.weight"].device)


def timed(work: Callable[[], Any]) -> float:
    """Seconds until the device has finished."""
    wait_for(device())
    began = time.perf_counter()
    work()
    wait_for(device())
    return time.perf_counter() - began


def quality(params: Params, scans: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Of every method on the small network: seconds per scan, time over five plain steps, mean PSNR and steps."""
    fitters = {name: small_fitter(params, settings) for name, settings in METHODS.items()}
    results = {name: fitter.fit(scans) for name, fitter in fitters.items()}  # also the warm-up
    times = side_by_side({name: partial(timed, partial(f.fit, scans)) for name, f in fitters.items()}, rounds)
    base = times["sgd, 5 of 20 steps"]
    return {
        name: {
            "psnr": float(result.psnr.mean()),
            "lowest_psnr": float(result.psnr.min()),
            "time_over_5_plain_steps": ratio(times[name], base),
            "ms_per_scan": statistics.median(times[name]) / len(scans) * 1e3,
            "mean_steps": float(result.steps.float().mean()),
        }
        for name, result in results.items()
    }


def quality_of(params: Params, scans: Tensor, settings: FitSettings) -> float:
    """Mean PSNR (dB) on the small network."""
    return float(small_fitter(params, settings).fit(scans).psnr.mean())


def cut_row(params: Params, scans: Tensor, rounds: int) -> dict[str, float]:
    """The quick settings against five plain steps, these two in turns and nothing between: gain (dB) and time ratio."""
    sides = {"quick": QUICK, "plain": METHODS["sgd, 5 of 20 steps"]}
    fitters = {name: small_fitter(params, settings) for name, settings in sides.items()}
    psnr = {name: float(fitter.fit(scans).psnr.mean()) for name, fitter in fitters.items()}
    times = side_by_side({name: partial(timed, partial(f.fit, scans)) for name, f in fitters.items()}, rounds)
    ratios = [a / b for a, b in zip(times["quick"], times["plain"], strict=True)]
    return {
        "gain": psnr["quick"] - psnr["plain"],
        "time_ratio": statistics.median(ratios),
        "lowest_ratio": min(ratios),
        "highest_ratio": max(ratios),
    }


def baseline_psnr(params: Params, scans: Tensor) -> float:
    """Mean PSNR (dB) of the published procedure on the small network."""
    coordinates = small_grid(params)
    latents = [published_fit(SMALL, params, coordinates, scan[None], 20) for scan in scans]
    values = field(SMALL, params, coordinates, torch.cat(latents)).clamp(0, 1)
    return float((-10 * torch.log10(mse(values, scans))).mean())


def throughput(scans: Tensor, steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a scan at the paper's size, in turns."""
    params = started(PAPER, scans.device)
    coordinates = grid((64, 64), scans.device)
    several = {"sgd, 20 steps": FitSettings(steps, 1e-2), "gauss-newton, 3 steps": newton(3)}
    fitters = {name: StepwiseFitter(PAPER, params, coordinates, settings) for name, settings in several.items()}
    fitters["gauss-newton, 3 steps"].fit(scans[:1])  # what is computed once a network is not a matter of scans
    ours = {name: lambda f=f: timed(lambda: f.fit(scans)) / len(scans) for name, f in fitters.items()}
    published = partial(published_fit, PAPER, params, coordinates, scans[:1], steps)
    return side_by_side({"published": lambda: timed(published), **ours}, rounds)


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--data", help="a MedMNIST .npz file; smooth noise without")
    parser.add_argument("--network", help="folder of a small network that is trained already")
    given, began, place = parser.parse_args(), time.perf_counter(), device()
    short = given.short
    network = moved(SharedNetwork.load(given.network).params, place) if given.network else None
    params = network or trained(images(given.data, "train", 4708, 28).to(place), 5 if short else TRAINING_STEPS)
    held_out = images(given.data, "test", 8 if short else 64, 28).to(place)
    small = quality(params, held_out, 1 if short else 3)
    row = cut_row(params, held_out, 1 if short else 9)
    published = baseline_psnr(params, held_out[: 2 if short else 32])
    few = quality_of(params, held_out[: 2 if short else 32], newton(3))
    speed = throughput(images(given.data, "test", 2, 64).to(place), 1 if short else 20, 1 if short else 3)
    claims_and_notes(short, began, given, small, row, few - published, published, speed)


def claims_and_notes(
    short: bool,
    began: float,
    given: argparse.Namespace,
    small: dict[str, dict[str, float]],
    row: dict[str, float],
    few_over_published: float,
    published: float,
    speed: dict[str, list[float]],
) -> None:
    """The claims."""
    newton10 = small["gauss-newton, 10 steps"]["psnr"]
    faster = {name: ratio(speed["published"], times) for name, times in speed.items()}
    claims = [
        Claim("scans/s over the published fit", faster["gauss-newton, 3 steps"], 4.0, True),
        Claim("its PSNR less the published fit's, dB", few_over_published, -0.05, True),
        Claim("PSNR of the quick settings over 5 plain steps, dB", row["gain"], 1.0, True),
        Claim("their time over that of 5 plain steps", row["time_ratio"], 1.0, False),
        Claim("int8 below float32, dB", newton10 - small["gauss-newton, 10 steps, int8"]["psnr"], 0.1, False),
    ]
    seconds = {name: statistics.median(times) for name, times in speed.items()}
    table: list[dict[str, Any]] = [{"small network": name, **row} for name, row in small.items()]
    notes = [
        f"Published fit on the small network: {published:.2f} dB (the first 32 of these scans).",
        f"Quick: {QUICK_NAME}, damping {QUICK.damping}; chosen on the validation split, reported on the test split. "
        f"Time ratio in turns: {row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}.",
        *([] if given.network else [f"The small network was trained here, {TRAINING_STEPS} outer steps."]),
        *(f"At the paper's size, {n}: {seconds[n]:.2f} s a scan, {faster[n]:.2f} x published." for n in speed),
        f"Scans: {'of the file given' if given.data else 'smooth noise'}.",
    ]
    results = {
        "small": small,
        "published_psnr": published,
        "seconds_per_scan": seconds,
        "quick": row,
        "over_published": faster,
    }
    report("fit_throughput", short, began, results, claims, table, notes)


if __name__ == "__main__":
    main()
