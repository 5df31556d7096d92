"""Whether compiled sweeps, GPU kernels and recorded steps are worth having: tried once, before a run computes so.

On a run's own shapes, on the device that its workers are granted. Every way to run a step is compared with the eager
one on inputs of its own (a recorded step in its third to fifth replay) and timed; the fastest that is right is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.device import granted_device, require_device
from medfuncta_dist.meta.machine import captured
from medfuncta_dist.meta.machine.arithmetic import Arithmetic, Products
from medfuncta_dist.meta.machine.captured import (
    CHECKED,
    Recorder,
    Replayed,
    Work,
    agrees_with_replays,
    difference,
    record_cuda_graph,
)
from medfuncta_dist.meta.machine.compiled import TOLERANCE
from medfuncta_dist.meta.machine.precision import Precision
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks

LEAST_GAIN = 1.05
"""Times faster than eager; less is noise, and not worth compiling for."""
ROUNDS = 3
TF32_TOLERANCE = 3e-2
"""Relative, of a gradient whose products have 11 bits, from the one in float32: 2e-3 to 4e-3 at 15 x 256."""
RATE = 1e-2
"""Of the inner steps: small, so that an untrained network stays finite."""


@dataclass(frozen=True)
class Trial:
    """One outer step of ``inner_steps``, in a run's own shapes, with its library and precision of products."""

    spec: SirenSpec
    points: int
    selection_ratio: float
    scans: int
    """Of one rank."""
    inner_steps: int
    chunks: Chunks
    arithmetic: Arithmetic
    threads: int
    gpus: float
    """Granted to each worker, and to the trial."""
    compiling: bool = True
    """Whether to try ``torch.compile``, rather than do as ``arithmetic`` says; ``graphs``: whether to try CUDA graphs,
    on a GPU."""
    graphs: bool = False
    kernels: Precision | None = None
    """The precision in which to try our GPU kernels; None where they are not to be tried."""


@dataclass(frozen=True)
class Verdict:
    """Whether to compile, whether to record, and in words why, with the times; ``products`` and ``precision``: of the
    way that was taken, None where that is the trial's own."""

    compiled: bool
    captured: bool
    reason: str
    products: Products | None = None
    precision: Precision | None = None


def self_check(trial: Trial, record: Recorder = record_cuda_graph) -> Verdict:
    """Compare and time the ways to run a step, on the device that the trial was granted.

    Never raises for what is the fault of a compiler or a recording that is tried: then that way is out. MedfunctaError
    for a GPU that torch cannot use, and where compiling was given but does not work.
    """
    torch.set_num_threads(trial.threads)
    device = require_device(granted_device(trial.gpus))
    inputs = [_inputs(trial, device, seed) for seed in range(CHECKED.stop)]
    first, *others = _ways(trial)
    plain = _way(trial, device, first, record)
    expected, found, said = plain(*inputs[0]), {first: plain}, []
    exact = _exact_result(trial, device, inputs[0]) if trial.kernels else expected
    for arithmetic in others:
        kernels = arithmetic.products == "triton"
        if arithmetic.captured and kernels and replace(arithmetic, captured=False) not in found:
            continue  # what is wrong eagerly is wrong when recorded
        try:
            way = _way(trial, device, arithmetic, record)
            error = _error(way, arithmetic, exact if kernels else expected, inputs, trial, device)
        except (MedfunctaError, torch.OutOfMemoryError) as broken:
            said.append(broken.what if isinstance(broken, MedfunctaError) else "not enough memory to record a step")
            continue
        if error <= _allowed(arithmetic):
            found[arithmetic] = way
        else:
            said.append(f"a step {_name(arithmetic)} differs from the eager one by {error:.1e} (relative)")
    return _fastest(found, inputs[0], said)


def _exact_result(trial: Trial, device: torch.device, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Of the first step, in float32: what kernels are compared with, whose precision may be another."""
    exact = replace(trial.arithmetic, precision="fp32", compiled=False, captured=False)
    return _way(trial, device, exact, record_cuda_graph)(*inputs)


def _ways(trial: Trial) -> list[Arithmetic]:
    """In the order in which they are tried; first the one that needs no trial: eager, or compiled where it is given."""
    recording = (False, True) if trial.graphs else (False,)
    compiling = (False, True) if trial.compiling else (trial.arithmetic.compiled,)
    found = [replace(trial.arithmetic, compiled=on, captured=captured) for captured in recording for on in compiling]
    if trial.kernels:
        ours = replace(trial.arithmetic, products="triton", precision=trial.kernels, compiled=False)
        found += [replace(ours, captured=captured) for captured in recording]
    return found


def _name(arithmetic: Arithmetic) -> str:
    if arithmetic.products == "triton":
        return " and ".join([f"with our {arithmetic.precision} kernels", *["as a CUDA graph"] * arithmetic.captured])
    return " and ".join(["compiled"] * arithmetic.compiled + ["as a CUDA graph"] * arithmetic.captured) or "eager"


def _allowed(arithmetic: Arithmetic) -> float:
    """Of a recording, from its own eager step; of kernels, from float32; of compiled sweeps, from eager ones."""
    if arithmetic.captured and not arithmetic.compiled:
        return captured.TOLERANCE
    if arithmetic.products == "triton" and arithmetic.precision == "tf32":
        return TF32_TOLERANCE
    return TOLERANCE[torch.float32]


def _way(trial: Trial, device: torch.device, arithmetic: Arithmetic, record: Recorder) -> Work:
    params = init_params(trial.spec, torch.Generator().manual_seed(0))
    coordinates = 2 * torch.rand(trial.points, trial.spec.coords, generator=torch.Generator().manual_seed(1)) - 1
    plain = replace(arithmetic, captured=False)
    learner = MetaLearner(trial.spec, params, coordinates.to(device), RATE, chunks=trial.chunks, arithmetic=plain)
    return Replayed(learner.work, record) if arithmetic.captured else torch.no_grad()(learner.work)


def _inputs(trial: Trial, device: torch.device, seed: int) -> list[Tensor]:
    """Of ``MetaLearner.work``: scans, latents, rates, context sets and θ of a step that no other seed has."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(trial.scans, trial.points, trial.spec.channels, generator=generator)
    sets = context_sets(trial.points, trial.selection_ratio, trial.inner_steps, seed=seed, outer_step=0)
    theta = init_params(trial.spec, generator)
    given = [targets, torch.zeros(trial.scans, trial.spec.latent), torch.full((1, 1, 1), RATE), *sets]
    return [one.to(device) for one in (*given, *(theta[name] for name in trial.spec.shapes()))]


def _error(
    way: Work,
    arithmetic: Arithmetic,
    expected: Sequence[Tensor],
    inputs: Sequence[Sequence[Tensor]],
    trial: Trial,
    device: torch.device,
) -> float:
    """The largest relative difference from what it should be: of a recorded step, in its later replays."""
    if not arithmetic.captured:
        return difference(way(*inputs[0]), expected)
    # ``Replayed`` compares the first replay itself.
    plain = _way(trial, device, replace(arithmetic, captured=False), record_cuda_graph)
    return agrees_with_replays(plain, way, inputs)


def _fastest(ways: dict[Arithmetic, Work], inputs: Sequence[Tensor], said: list[str]) -> Verdict:
    """The fastest of the ways that are right; the first, unless another gains."""
    if len(ways) == 1:
        return Verdict(False, False, "; ".join(said))
    times = {arithmetic: least_seconds(way, inputs) for arithmetic, way in ways.items()}
    texts = [f"{seconds:.3g} s {_name(arithmetic)}" for arithmetic, seconds in times.items()]
    reason = "; ".join(["one step takes " + ", ".join(texts), *said])
    plain, best = next(iter(times.values())), min(times, key=lambda arithmetic: times[arithmetic])
    gains = plain >= LEAST_GAIN * times[best]
    if gains and best.products == "triton":
        return Verdict(False, best.captured, reason, best.products, best.precision)
    return Verdict(gains and best.compiled, gains and best.captured, reason)


def least_seconds(way: Work, inputs: Sequence[Tensor]) -> float:
    """Of a few calls."""
    return min(_seconds(way, inputs) for _ in range(ROUNDS))


def _seconds(way: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> float:
    began = time.perf_counter()
    float(way(*inputs)[0].sum())  # waits for a GPU
    return time.perf_counter() - began
