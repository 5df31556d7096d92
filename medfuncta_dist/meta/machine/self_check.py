"""Whether compiled sweeps are worth having: tried once, on a run's own shapes, before the run computes with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.meta.context import context_sets
from medfuncta_dist.meta.device import granted_device, require_device
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.compiled import TOLERANCE
from medfuncta_dist.meta.meta_gradient import MetaGradient, meta_gradient
from medfuncta_dist.meta.objective import Objective
from medfuncta_dist.meta.sweeps.chunks import Chunks
from medfuncta_dist.meta.sweeps.folded import fold

LEAST_GAIN = 1.05
"""Times faster; less is noise, and not worth compiling for."""
ROUNDS = 3


@dataclass(frozen=True)
class Trial:
    """One outer step of one inner step, in a run's own shapes, with its library of products."""

    spec: SirenSpec
    points: int
    selection_ratio: float
    chunks: Chunks
    arithmetic: Arithmetic
    threads: int
    gpus: float
    """Granted to each worker, and to the trial."""


@dataclass(frozen=True)
class Verdict:
    """Whether to compile, and in words why, with both times."""

    compiled: bool
    reason: str


def self_check(trial: Trial) -> Verdict:
    """Compare and time compiled sweeps against eager ones, on the device that the trial was granted.

    Never raises for what is the compiler's fault: then the verdict is no. MedfunctaError for a GPU torch cannot use.
    """
    torch.set_num_threads(trial.threads)
    work = _work(trial)
    eager = replace(trial.arithmetic, compiled=False)
    expected = work(eager)
    try:
        found = work(replace(eager, compiled=True))
    except MedfunctaError as error:
        return Verdict(False, error.what)
    error_size = _difference(found, expected)
    if not error_size <= TOLERANCE[torch.float32]:
        return Verdict(False, f"a compiled step's gradient differs from the eager one by {error_size:.1e} (relative)")
    plain, compiled = (
        min(_seconds(work, how) for _ in range(ROUNDS)) for how in (eager, replace(eager, compiled=True))
    )
    reason = f"one step takes {compiled:.3g} s compiled and {plain:.3g} s eager"
    return Verdict(plain >= LEAST_GAIN * compiled, reason)


def _work(trial: Trial) -> Callable[[Arithmetic], MetaGradient]:
    device = require_device(granted_device(trial.gpus))
    generator = torch.Generator().manual_seed(0)
    spec, scans = trial.spec, trial.chunks.scans
    params = {name: tensor.to(device) for name, tensor in init_params(spec, generator).items()}
    targets = torch.rand(scans, trial.points, spec.channels, generator=generator).to(device)
    coordinates = (2 * torch.rand(trial.points, spec.coords, generator=generator) - 1).to(device)
    contexts = context_sets(trial.points, trial.selection_ratio, 1, seed=0, outer_step=0)
    latents = torch.zeros(scans, spec.latent, device=device)

    def work(arithmetic: Arithmetic) -> MetaGradient:
        network = fold(spec, params, arithmetic)
        return meta_gradient(Objective(network, coordinates, targets, latents, trial.chunks), contexts, 1e-2)

    return work


def _difference(found: MetaGradient, expected: MetaGradient) -> float:
    """The largest over θ's tensors and the losses of ‖found − expected‖ / ‖expected‖."""
    pairs: list[tuple[Tensor, Tensor]] = [(found.losses, expected.losses)]
    pairs += [(found.params[name], tensor) for name, tensor in expected.params.items()]
    return max(float((one - other).norm() / other.norm()) for one, other in pairs if bool(other.any()))


def _seconds(work: Callable[[Arithmetic], MetaGradient], arithmetic: Arithmetic) -> float:
    began = time.perf_counter()
    float(work(arithmetic).losses.sum())  # waits for a GPU
    return time.perf_counter() - began
