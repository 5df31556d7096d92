"""The memory that fitting a block takes, so that the number of scans in it can be planned before it is allocated."""

from __future__ import annotations

from medfuncta_dist.fields.siren import SirenSpec
from medfuncta_dist.latents.curvature_forms import Dual, form_of
from medfuncta_dist.latents.fit_settings import FitSettings
from medfuncta_dist.latents.fit_steps import METHODS
from medfuncta_dist.meta.context import context_size
from medfuncta_dist.meta.sweeps.chunks import Chunks

FLOAT = 4
"""Bytes of a float32."""
LAYER_COPIES = 4
"""Activations of one layer that a sweep holds beside those it keeps: phase, sine, adjoint and the product of two."""


def block_bytes(spec: SirenSpec, points: int, settings: FitSettings, weighted: bool = False) -> int:
    """Bytes that every scan of a block takes at its peak, on a grid of so many points, in float32.

    What all scans of a block share is not in it: the network, and for a closed-form first step the Jacobian at φ = 0
    (values times shifts), the matrix there and its factor (P² each). ``weighted``: whether points have weights; each
    scan then has a matrix at φ = 0 of its own.
    """
    sparse = context_size(points, settings.selection_ratio)
    seen = points if settings.full_steps else sparse
    chunk = min((settings.chunks or Chunks.sized(spec.hidden)).points, seen)
    targets = 2 * (points + seen) * spec.channels  # and the errors, or values, of each
    if weighted:
        targets += points * (spec.channels + 2) + 2 * seen  # the values that count; weights, as given and relative
    if METHODS[settings.method].curved:
        first = 2 * spec.latent**2 if weighted and settings.closed_form else 0
        return FLOAT * (targets + first + _curved_numbers(spec, seen, chunk, settings.curvature_ratio))
    return FLOAT * (targets + _kept_layers(spec, chunk) + LAYER_COPIES * chunk * spec.hidden)


def _curved_numbers(spec: SirenSpec, seen: int, chunk: int, ratio: float) -> int:
    """The larger of two peaks: while the curvature is computed, beside that of the step before; and while it is
    factorised, alone."""
    values, latent = context_size(seen, ratio) * spec.channels, spec.latent
    dual = form_of(values, latent) is Dual
    growing = values * latent if dual else latent**2
    form, factor = (growing + values**2, values**2) if dual else (growing, growing)
    finishing = growing + 2 * values**2 if dual else growing
    # Of a chunk's values, as many are in the sample as of all; Jacobian and rows, then rows and their products.
    rows = -(-values * chunk // seen)
    shifts = len(spec.modulated_layers) * spec.hidden
    jacobian = spec.channels * _kept_layers(spec, chunk)
    sweep = jacobian + max(_kept_layers(spec, chunk) + LAYER_COPIES * chunk * spec.hidden, rows * shifts)
    product = rows * (shifts + latent)
    return max(form + growing + max(sweep, product), form + finishing, form + factor)


def _kept_layers(spec: SirenSpec, chunk: int) -> int:
    """One number per point of a chunk, modulated layer and hidden unit."""
    return len(spec.modulated_layers) * chunk * spec.hidden
