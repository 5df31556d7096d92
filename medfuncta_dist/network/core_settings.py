"""What the run file says about fitting, as the settings of the compute core."""

from __future__ import annotations

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.latents.fit import FitSettings
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.sweeps.chunks import Chunks


def chunks_of(run: RunFile) -> Chunks | None:
    """The chunk sizes that the run began with; None where none are settled, and the core takes its own."""
    if run.meta.chunk_points is None or run.meta.chunk_scans is None:
        return None
    return Chunks(run.meta.chunk_points, run.meta.chunk_scans)


def arithmetic_of(run: RunFile) -> Arithmetic | None:
    """How the run began to compute; None where that is not settled, and the core takes what is best."""
    if run.meta.products is None:
        return None
    return Arithmetic(run.meta.products, compiled=bool(run.meta.compiled))


def fit_settings(run: RunFile) -> FitSettings:
    """For the fit stage, and for held-out PSNR while training. Rates are one number; learned ones are the network's."""
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
