"""From the run file to the types of the compute core. Nothing else translates one into the other."""

from __future__ import annotations

from typing import Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import FieldSpec, init_params
from medfuncta_dist.fields.params import Params
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.meta.inner_rates import Rate, layer_rates
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.outer_loop import LOG_RATES, MetaLearner
from medfuncta_dist.meta.sweeps.chunks import Chunks


def field_spec(run: RunFile) -> FieldSpec:
    """The architecture that a run file asks for."""
    section = run.field
    sizes: dict[str, Any] = {
        "coords": len(run.data.shape),
        "channels": run.data.channels,
        "layers": section.layers,
        "hidden": section.hidden,
        "latent": section.latent,
        "residual": section.residual,
        "modulate_first": section.modulate_first,
    }
    if section.omegas is not None:
        return FieldSpec(omegas=tuple(section.omegas), **sizes)
    return FieldSpec.linear(omega_first=section.omega_first, omega_last=section.omega_last, **sizes)


def new_learner(run: RunFile) -> MetaLearner:
    """The meta-learner before its first step: the same seed gives the same parameters on every rank and machine."""
    spec = field_spec(run)
    params = init_params(spec, torch.Generator().manual_seed(run.train.seed))
    learned = run.meta.rate_policy == "learned"
    coordinates, rates = grid(run.data.shape), first_rates(spec, run)
    chunks, arithmetic = chunks_of(run), arithmetic_of(run)
    return MetaLearner(spec, params, coordinates, rates, chunks=chunks, learn_rates=learned, arithmetic=arithmetic)


def first_rates(spec: FieldSpec, run: RunFile) -> Rate:
    """The inner rates that training starts from: one number, one per layer, or one per step where they are learned."""
    if run.meta.rate_policy == "layer":
        return layer_rates(spec, run.inner_rate)
    if run.meta.rate_policy == "learned":
        return torch.full((run.meta.inner_steps, 1), run.inner_rate)
    return run.inner_rate


def trained_rates(spec: FieldSpec, run: RunFile, params: Params) -> Rate:
    """The inner rates that belong to trained parameters: the learned ones, where they are learned."""
    return params[LOG_RATES].exp() if LOG_RATES in params else first_rates(spec, run)


def chunks_of(run: RunFile) -> Chunks | None:
    """The chunk sizes that were fixed when the run started; None where none are, and the core chooses its own."""
    if run.meta.chunk_points is None or run.meta.chunk_scans is None:
        return None
    return Chunks(run.meta.chunk_points, run.meta.chunk_scans)


def arithmetic_of(run: RunFile) -> Arithmetic | None:
    """The arithmetic that was fixed when the run started; None where none is, and the core chooses the best."""
    if run.meta.products is None:
        return None
    return Arithmetic(run.meta.products, compiled=bool(run.meta.compiled))


def fit_settings(run: RunFile) -> FitSettings:
    """For the fit stage, and for held-out PSNR during training.

    The rate is the run file's one number. Learned rates are stored with the network: whoever has it replaces the rate.
    """
    fit = run.fit
    return FitSettings(
        steps=fit.steps,
        rate=run.fit_rate,
        selection_ratio=fit.selection_ratio,
        seed=run.train.seed,
        chunks=chunks_of(run),
        arithmetic=arithmetic_of(run),
        method=fit.method,
        full_steps=fit.full_steps,
        momentum=fit.momentum,
        damping=fit.damping,
        curvature_ratio=fit.curvature_ratio,
        closed_form=fit.closed_form,
        rescale=fit.rescale,
        target_psnr=fit.target_psnr,
        storage_type=fit.storage_type,
    )
