"""From the run file to the types of the compute core. Nothing else translates one into the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medfuncta_dist.config.run_file import RunFile
from medfuncta_dist.errors import RunFileError
from medfuncta_dist.fields.basis import BasisSpec
from medfuncta_dist.fields.coordinates import grid
from medfuncta_dist.fields.field_kinds import FieldSpec, init_params
from medfuncta_dist.fields.params import linear_omegas
from medfuncta_dist.fields.shared_network import SharedNetwork
from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.storage_loss import Spectrum, coarsest
from medfuncta_dist.meta.closed_form.basis_learner import BasisLearner
from medfuncta_dist.meta.inner_rates import Rate, layer_rates
from medfuncta_dist.meta.learner import Learner
from medfuncta_dist.meta.machine.arithmetic import Arithmetic
from medfuncta_dist.meta.outer_loop import MetaLearner
from medfuncta_dist.meta.sweeps.chunks import ACTIVATION_BYTES, Chunks

BLOCK_BYTES = 2**26
"""Of a basis field's features in one block of points: 16 000 points at F = 1024. The sums over points are added up
once per block, F² numbers in float64, so small blocks would cost more than the products."""


def field_spec(run: RunFile) -> FieldSpec:
    """The architecture that a run file asks for, as it is trained."""
    section, omegas = run.field, _omegas(run)
    sizes: dict[str, Any] = {"coords": len(run.data.shape), "channels": run.data.channels, "omegas": omegas}
    sizes |= {"layers": section.layers, "hidden": section.hidden}
    if section.kind == "basis":
        return BasisSpec(features=section.feature_count, latent=section.feature_count, mapped=False, **sizes)
    return SirenSpec(latent=section.latent, residual=section.residual, modulate_first=section.modulate_first, **sizes)


def trained_spec(run: RunFile) -> FieldSpec:
    """The architecture that a run file asks for, as training leaves it: a basis field's latent then has P numbers."""
    spec = field_spec(run)
    return replace(spec, latent=run.field.latent, mapped=True) if isinstance(spec, BasisSpec) else spec


def _omegas(run: RunFile) -> tuple[float, ...]:
    if run.field.omegas is not None:
        return tuple(run.field.omegas)
    return linear_omegas(run.field.layers, run.field.omega_first, run.field.omega_last)


def new_learner(run: RunFile) -> Learner:
    """The learner before its first step: the same seed gives the same parameters on every rank and machine."""
    spec = field_spec(run)
    params = init_params(spec, torch.Generator().manual_seed(run.train.seed))
    coordinates, arithmetic = grid(run.data.shape), arithmetic_of(run)
    chunks = chunks_of(run) or sized_chunks(run)
    if isinstance(spec, BasisSpec):
        latent, ridge = run.field.latent, run.meta.ridge
        return BasisLearner(spec, params, coordinates, latent, ridge, chunks.points, arithmetic)
    learned, rates = run.meta.rate_policy == "learned", first_rates(spec, run)
    return MetaLearner(spec, params, coordinates, rates, chunks=chunks, learn_rates=learned, arithmetic=arithmetic)


def sized_chunks(run: RunFile, activation_bytes: int = ACTIVATION_BYTES) -> Chunks:
    """Chunks for a machine that has so many bytes for one layer's activations."""
    spec = field_spec(run)
    if isinstance(spec, BasisSpec):
        return Chunks(max(1, BLOCK_BYTES // (4 * spec.widest)), run.train.batch)
    return Chunks.sized(spec.hidden, activation_bytes)


def sized_chunks_on_gpu(run: RunFile, memory: int, scans: int) -> Chunks:
    """Chunks of a batch of so many scans for a GPU that has ``memory`` bytes for one sweep."""
    spec = field_spec(run)
    if isinstance(spec, BasisSpec):
        return sized_chunks(run)
    return Chunks.within(memory, spec.layers, spec.hidden, scans, run.data.points)


def inner_of(run: RunFile) -> dict[str, Any]:
    """How the inner loop finds latents, for the network's description."""
    # Only of a network that a GPU trained: on CPUs there is no choice, and nothing to tell.
    known: dict[str, Any] = {"precision": run.meta.precision or "fp32"} if run.cluster.gpus_per_worker else {}
    known["selection_ratio"] = run.meta.selection_ratio
    if run.field.kind == "basis":
        return {"ridge": run.meta.ridge, **known}
    return {"steps": run.meta.inner_steps, "rate": run.inner_rate, **known}


def first_rates(spec: SirenSpec, run: RunFile) -> Rate:
    """The inner rates that training starts from: one number, one per layer, or one per step where they are learned."""
    if run.meta.rate_policy == "layer":
        return layer_rates(spec, run.inner_rate)
    if run.meta.rate_policy == "learned":
        return torch.full((run.meta.inner_steps, 1), run.inner_rate)
    return run.inner_rate


def chunks_of(run: RunFile) -> Chunks | None:
    """The chunk sizes that the run has settled on; None where it has not, and the core chooses its own."""
    if run.meta.chunk_points is None or run.meta.chunk_scans is None:
        return None
    chunks = Chunks(run.meta.chunk_points, run.meta.chunk_scans)
    for _ in range(run.meta.halvings or 0):
        chunks = chunks.halved()
    return chunks


def arithmetic_of(run: RunFile) -> Arithmetic | None:
    """The arithmetic that the run has settled on; None where it has not, and the core chooses the best."""
    meta = run.meta
    if meta.products is None:
        return None
    return Arithmetic(meta.products, bool(meta.compiled), meta.precision or "fp32", bool(meta.captured))


def _block_of(run: RunFile) -> int | None:
    """Scans of a fitted block; halved with the chunks, for it is what a fit's memory depends on most."""
    block = run.fit.block_scans
    return None if block is None else max(1, block >> (run.meta.halvings or 0))


def _fit_arithmetic(run: RunFile) -> Arithmetic | None:
    found = arithmetic_of(run)
    return None if found is None else replace(found, captured=bool(run.fit.captured))


def spectrum_of(network: SharedNetwork) -> Spectrum | None:
    """What a network tells of the cost of storing its latents; None where it does not, as a SIREN."""
    variances, residual = network.extras.get("latent.variances"), network.inner.get("residual")
    if variances is None or not isinstance(residual, float | int):
        return None
    scans = network.inner.get("scans")
    return Spectrum(variances, float(residual), scans if isinstance(scans, int) else 0)


def stored_settings(run: RunFile, network: SharedNetwork) -> FitSettings:
    """For the fit stage: with ``fit.storage_loss``, in the type and with the numbers that this network's latents need.

    RunFileError where the network does not tell its latents' variances.
    """
    settings = replace(fit_settings(run), storage_type=run.fit.storage_type)
    if run.fit.storage_loss is None:
        return settings
    spectrum = spectrum_of(network)
    if spectrum is None:
        raise RunFileError(
            "the shared network does not tell the variances of its latents, from which a loss could be predicted",
            where="fit.storage_loss",
            do="leave it out and give fit.storage_type, or train the network again",
        )
    choice = coarsest(run.fit.storage_loss, spectrum)
    return replace(settings, storage_type=choice.storage_type, keep=choice.keep)


def fit_settings(run: RunFile) -> FitSettings:
    """As the run file says: for held-out PSNR during training, when there is no network yet to choose storage by.

    The rate is the run file's one number. Learned rates are stored with the network: whoever has it replaces the rate.
    """
    fit = run.fit
    return FitSettings(
        steps=fit.steps,
        rate=run.fit_rate,
        selection_ratio=fit.selection_ratio,
        seed=run.train.seed,
        chunks=chunks_of(run),
        arithmetic=_fit_arithmetic(run),
        block=_block_of(run),
        method=fit.method,
        ridge=fit.ridge,
        keep=fit.keep,
        full_steps=fit.full_steps,
        momentum=fit.momentum,
        damping=fit.damping,
        curvature_ratio=fit.curvature_ratio,
        closed_form=fit.closed_form,
        rescale=fit.rescale,
        target_psnr=fit.target_psnr,
        # Tables of curved latents are made from the trained network: without them, float32.
        storage_type="float32" if fit.storage_type == "curved" else fit.storage_type,
    )
