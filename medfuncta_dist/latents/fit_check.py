"""Whether recording all steps of a block as a CUDA graph is worth having: tried once, before a run fits so."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medfuncta_dist.errors import MedfunctaError
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.siren import SirenSpec, init_params
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.stepwise_fit import StepwiseFitter
from medfuncta_dist.meta.device import granted_device, require_device
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.machine.captured import (
    CHECKED,
    TOLERANCE,
    Recorder,
    Replayed,
    agrees_with_replays,
    record_cuda_graph,
)
from medfuncta_dist.meta.machine.self_check import LEAST_GAIN, Verdict, least_seconds


@dataclass(frozen=True)
class FitTrial:
    """One block of a run's fit, on a network of its size that nobody has trained: the kernels are the same."""

    spec: SirenSpec
    shape: tuple[int, ...]
    settings: FitSettings
    """With the block and the arithmetic that the run fits with."""
    threads: int
    gpus: float
    """Granted to each task, and to the trial."""


def fit_check(trial: FitTrial, record: Recorder = record_cuda_graph) -> Verdict:
    """Compare and time a recorded block against an eager one, on the device that the trial was granted.

    Never raises for what is the recording's fault: then the verdict is no. MedfunctaError for a GPU that torch cannot
    use.
    """
    torch.set_num_threads(trial.threads)
    device = require_device(granted_device(trial.gpus))
    fitter = _fitter(trial, device)
    scans = [_scans(trial, device, seed) for seed in range(CHECKED.stop)]
    replayed = Replayed(fitter.work, record)
    with torch.no_grad():
        try:
            error = agrees_with_replays(fitter.work, replayed, scans)
            plain, recorded = (least_seconds(work, scans[0]) for work in (fitter.work, replayed))
        except MedfunctaError as broken:
            return Verdict(False, False, broken.what)
        except torch.OutOfMemoryError:
            return Verdict(False, False, "not enough memory to record a block")
    if not error <= TOLERANCE:
        return Verdict(False, False, f"a recorded block differs from the eager one by {error:.1e} (relative)")
    reason = f"a block takes {plain:.3g} s eager and {recorded:.3g} s as a CUDA graph"
    return Verdict(False, plain >= LEAST_GAIN * recorded, reason)


def _fitter(trial: FitTrial, device: torch.device) -> StepwiseFitter:
    params = init_params(trial.spec, torch.Generator().manual_seed(0))
    here = {name: tensor.to(device) for name, tensor in params.items()}
    arithmetic = trial.settings.arithmetic or Arithmetic.best(device)
    settings = replace(trial.settings, arithmetic=replace(arithmetic, captured=False))
    return StepwiseFitter(trial.spec, here, grid(trial.shape, device=device), settings)


def _scans(trial: FitTrial, device: torch.device, seed: int) -> list[Tensor]:
    """A block of noise that no other seed has."""
    scans = trial.settings.block or (trial.settings.chunks.scans if trial.settings.chunks else 1)
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(scans, math.prod(trial.shape), trial.spec.channels, generator=generator).to(device)]
