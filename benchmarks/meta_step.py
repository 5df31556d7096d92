"""One outer step at the paper's 2D size: the recursive meta-gradient against plain autograd through the unrolled loop.

Time, peak memory and the gradient's error. Memory is what a process needs above the loaded network and batch, each
case in a process of its own; time is taken side by side in one process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Claim, device, ratio, report, side_by_side, wait_for
from benchmarks.paper_field import paper_field
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.params import Params
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.outer_loop import MetaLearner

RATE = 1e-2


@dataclass(frozen=True)
class Case:
    """One outer step's size. The paper's 2D network and context unless said otherwise."""

    engine: str
    scans: int
    ratio: float
    side: int = 64
    steps: int = 10
    layers: int = 15
    hidden: int = 256
    latent: int = 2048
    double: bool = False
    data: str | None = None

    def spec(self) -> SirenSpec:
        """The field, in the variant without the residual, as in the paper."""
        return paper_field(self.layers, self.hidden, self.latent)


def images(case: Case) -> Tensor:
    """(scan, point, channel) in [0, 1]: the first scans of a MedMNIST file, or smooth noise; resized."""
    if case.data:
        found = np.load(case.data, allow_pickle=False)["test_images"][: case.scans].astype(np.float32) / 255
        small = torch.from_numpy(found)[:, None]
    else:
        small = torch.rand(case.scans, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, size=(case.side, case.side), mode="bilinear", align_corners=True)
    return large.reshape(case.scans, -1, 1)


def plain_step(spec: SirenSpec, params: Params, coordinates: Tensor, targets: Tensor, contexts: list[Tensor]) -> None:
    """The baseline: the paper's formulas as one would write them, and autograd through all inner steps."""

    def values(points: Tensor, latents: Tensor) -> Tensor:
        hidden = torch.sin(spec.omegas[0] * (points @ params["layer.1.weight"].T + params["layer.1.bias"]))
        hidden = hidden.expand(len(latents), -1, -1)
        for k in range(2, spec.layers):
            shift = latents @ params[f"modulation.{k}.weight"].T + params[f"modulation.{k}.bias"]
            phase = hidden @ params[f"layer.{k}.weight"].T + params[f"layer.{k}.bias"] + shift[:, None]
            hidden = torch.sin(spec.omegas[k - 1] * phase)
        return hidden @ params[f"layer.{spec.layers}.weight"].T + params[f"layer.{spec.layers}.bias"] + 0.5

    def loss(points: Tensor, targets: Tensor, latents: Tensor) -> Tensor:
        return (values(points, latents) - targets).square().mean(dim=(1, 2)).sum()

    latents = targets.new_zeros(len(targets), spec.latent, requires_grad=True)
    for context in contexts:
        inner = loss(coordinates[context], targets[:, context], latents)
        (gradient,) = torch.autograd.grad(inner, latents, create_graph=True)
        latents = latents - RATE * gradient
    (loss(coordinates, targets, latents) / len(targets)).backward()


def prepared(case: Case) -> tuple[Callable[[], Params], Callable[[], None]]:
    """A loaded network and batch: the step, which returns θ's gradient by name, and a reset between steps."""
    dtype = torch.float64 if case.double else torch.float32
    place = {"device": device(), "dtype": dtype}
    spec = case.spec()
    params = {k: v.to(**place) for k, v in init_params(spec, torch.Generator().manual_seed(0)).items()}
    targets, coordinates = images(case).to(**place), grid((case.side, case.side)).to(**place)
    found = context_sets(len(coordinates), case.ratio, case.steps, seed=0, outer_step=0)
    contexts = [context.to(device()) for context in found]
    learner = MetaLearner(spec, params, coordinates, RATE)
    leaves = learner.params()

    def step() -> Params:
        if case.engine == "plain":
            plain_step(spec, leaves, coordinates, targets, contexts)
        else:
            latents = targets.new_zeros(len(targets), spec.latent, requires_grad=True)
            learner(targets, latents, contexts).mean().backward()
        return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}

    return step, lambda: learner.zero_grad(set_to_none=True)


def seconds_of(case: Case) -> Callable[[], float]:
    """A function that takes one step and tells its seconds; the first is a warm-up."""
    step, reset = prepared(case)

    def run() -> float:
        reset()
        wait_for(device())
        began = time.perf_counter()
        step()
        wait_for(device())
        return time.perf_counter() - began

    return run


def peak_bytes(case: Case) -> int:
    """Peak memory of one step above the loaded network and batch, in a process of its own.

    θ's gradients, which every engine must return, are counted.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (case,))


def _peak(case: Case) -> int:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    _warm(case)
    step, _ = prepared(case)
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = _resident()
    highest = _Highest()
    step()
    return highest.stop() - before


def _warm(case: Case) -> None:
    # Libraries load and libraries' buffers are taken before the count: they belong to neither engine.
    step, _ = prepared(replace(case, scans=1, side=8, layers=3, hidden=16, latent=16, steps=1))
    step()


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class _Highest:
    """The highest resident size from now on, sampled: the kernel's own high-water mark cannot be set back here."""

    def __init__(self) -> None:
        self._highest, self._over = _resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self._highest = max(self._highest, _resident())

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return max(self._highest, _resident())


def gradient_error(case: Case) -> float:
    """Largest over θ's tensors of ‖recursive − plain‖ / ‖plain‖."""
    ours, plain = prepared(replace(case, engine="recursive"))[0](), prepared(replace(case, engine="plain"))[0]()
    return max(float((ours[name] - plain[name]).norm() / plain[name].norm()) for name in plain if plain[name].any())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; writes no results")
    parser.add_argument("--data", help="a MedMNIST npz file; default: synthetic images")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    small = {"layers": 4, "hidden": 32, "latent": 64, "side": 16, "steps": 3} if options.short else {}
    gpu = device().type == "cuda"
    scans, full = (3, 4) if options.short else (24 if gpu else 8, 12)
    ours = Case("recursive", scans, 0.25, data=options.data, **small)
    plain = replace(ours, engine="plain")

    variants = {"recursive": seconds_of(ours), "plain": seconds_of(plain)}
    for run in variants.values():
        run()
    times = side_by_side(variants, 1 if options.short else options.rounds)
    memory = {"recursive": peak_bytes(ours), "plain": peak_bytes(plain)}
    one, two = (peak_bytes(replace(plain, ratio=1.0, scans=n)) for n in (1, 2))
    whole = {"recursive": peak_bytes(replace(ours, ratio=1.0, scans=full)), "plain": one + (two - one) * (full - 1)}
    errors = {
        "float32": gradient_error(replace(ours, scans=2)),
        "float64": gradient_error(replace(ours, scans=1, double=True, side=min(ours.side, 32))),
    }
    time_limit, memory_limit = (0.20, 0.10) if gpu else (0.65, 0.04)
    claims = [
        Claim("time, recursive over plain", ratio(times["recursive"], times["plain"]), time_limit, False),
        Claim("peak memory, recursive over plain", memory["recursive"] / memory["plain"], memory_limit, False),
        Claim(f"γ = 1, B = {full}: memory, over plain extrapolated", whole["recursive"] / whole["plain"], 0.02, False),
        Claim("gradient error, float32", errors["float32"], 1e-4, False),
        Claim("gradient error, float64", errors["float64"], 1e-10, False),
    ]
    rows = [
        {"engine": name, "seconds a step (median)": statistics.median(times[name]),
         f"peak MiB, B = {scans}, γ = 0.25": memory[name] / 2**20, f"peak MiB, B = {full}, γ = 1": whole[name] / 2**20}
        for name in ("recursive", "plain")
    ]  # fmt: skip
    results = {
        "seconds": times,
        "peak_bytes": memory,
        "peak_bytes_full": whole,
        "errors": errors,
        "case": vars(ours) | {"data": ours.data and Path(ours.data).name},
    }
    notes = [
        f"G = {ours.steps}, {ours.layers} x {ours.hidden}, P = {ours.latent}, {ours.side}²; plain at γ = 1 is "
        f"extrapolated from B = 1 and 2 to B = {full}.",
        "Peak memory is resident memory above the loaded network and batch; it includes θ's gradients.",
    ]
    report("meta_step", options.short, began, json.loads(json.dumps(results)), claims, rows, notes)


if __name__ == "__main__":
    main()
